"""The strided pattern, query by query: softmax over a list of keys."""

from typing import Any

from torch import Tensor

from tests.oracles.sparse_transformer_fixed import listed

SETTINGS = {"stride": 5}
BLOCK = 10  # two lines: beyond them there are keys that are not seen
STATE_GROWS = True


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    def sees(i: int, j: int) -> bool:
        return abs(i - j) < attention.stride or (i - j) % attention.stride == 0

    return listed(attention, query, key_padding_mask, sees)
