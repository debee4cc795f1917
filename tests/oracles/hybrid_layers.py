"""The oracle of the mechanism that stands at this layer; which one, tests/attentions tests."""

from typing import Any

from torch import Tensor

from tests.oracles import linear_elu

SETTINGS = {"linear": "linear_elu"}  # the generic tests then take little time
BLOCK = linear_elu.BLOCK


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    masks = query_padding_mask, key_padding_mask
    return linear_elu.oracle(attention.part, query, context, *masks)
