"""The random synthesizer as one table of logits for all inputs, entry by entry a sum over ranks."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles.synthesizer import STATE_GROWS, attend

__all__ = ["STATE_GROWS", "oracle"]

SETTINGS = {"rank": 5}


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    length = query.shape[1]
    rows, columns = (x[:, :length] for x in (attention.query_factor, attention.key_factor))
    logits = torch.zeros(attention.num_heads, length, length, dtype=torch.float64)
    for r in range(rows.shape[-1]):
        logits = logits + rows[:, :, None, r] * columns[:, None, :, r]
    return attend(attention, logits[None], context, key_padding_mask)
