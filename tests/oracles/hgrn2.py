"""HGRN2 by its recurrence over positions; a padded one is left out of it."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge
from tests.oracles.gla import gated_recurrence

SETTINGS = {"lower_bound": 0.2}
BLOCK = 64  # the chunk of the gated scan


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, f, v = heads(attention, query, context)
    q = q * q.sigmoid()
    odds = 0.25 * attention.shift.exp()  # of a bound that starts at 0.2
    bound = odds / (1 + odds)
    g = bound + (1 - bound) * f.sigmoid()
    mixed = gated_recurrence(q, 1 - g, v, g, key_padding_mask, attention.pattern)
    if attention.pattern == "noncausal_self":  # the own position, in both directions
        own = ~key_padding_mask[:, None, :, None] * (1 - g)
        mixed = mixed + (q * own).sum(dim=-1, keepdim=True) * v
    together = torch.cat(mixed.unbind(dim=1), dim=-1)
    size = (together.square().mean(dim=-1)[:, None, :, None] + attention.eps).sqrt()
    return merge(attention, mixed / size)
