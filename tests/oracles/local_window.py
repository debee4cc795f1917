"""Local attention, query by query: softmax over a list of keys."""

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"window": 5}
BLOCK = 32  # queries per block at small windows


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    samples = []
    for b in range(len(q)):
        padded = key_padding_mask[b].tolist()
        query_len, key_len = length(query_padding_mask[b].tolist()), length(padded)
        rows = []
        for i in range(q.shape[2]):
            first, last = i - attention.window, i + attention.window
            if attention.pattern == "causal_self":
                first, last = i - attention.window + 1, i
            if attention.pattern == "noncausal_cross":
                # Rounded to the nearest key, halves upwards.
                place = Fraction(2 * i + 1, 2) * Fraction(key_len, query_len) - Fraction(1, 2)
                centre = math.floor(place + Fraction(1, 2))
                first, last = centre - attention.window, centre + attention.window
            keys = [j for j in range(k.shape[2]) if first <= j <= last and not padded[j]]
            scores = torch.einsum("hd,hjd->hj", q[b, :, i], k[b][:, keys]) / q.shape[-1] ** 0.5
            weights = scores.exp()
            weights = weights / weights.sum(dim=-1, keepdim=True)
            rows.append(torch.einsum("hj,hjd->hd", weights, v[b][:, keys]))
        samples.append(torch.stack(rows, dim=1))
    return merge(attention, torch.stack(samples))


def length(padded: list[bool]) -> int:
    """Positions up to the last that is not padding."""
    return max((n + 1 for n, is_padding in enumerate(padded) if not is_padding), default=1)
