"""No attention: zero."""

from typing import Any

from torch import Tensor


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    return 0.0 * query
