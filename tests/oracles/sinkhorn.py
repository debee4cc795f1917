"""Sparse Sinkhorn attention block by block, with plain sums and divisions instead of logarithms."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"block_size": 4, "num_iterations": 3, "temperature": 2.0}
BLOCK = 8  # two blocks


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    out = torch.zeros_like(q)
    for b in range(len(q)):
        real = [not padded for padded in key_padding_mask[b].tolist()]
        for h in range(q.shape[1]):
            weight = attention.sort_net[h]
            for i, row in one_head(attention, weight, q[b, h], k[b, h], v[b, h], real).items():
                at = (torch.tensor(b), torch.tensor(h), torch.tensor(i))
                out = out.index_put(at, row)
    return merge(attention, out)


def one_head(
    attention: Any, weight: Tensor, q: Tensor, k: Tensor, v: Tensor, real: list[bool]
) -> dict[int, Tensor]:
    causal, size = attention.pattern == "causal_self", attention.block_size
    length = len(real)
    starts = [s for s in range(0, length, size) if any(real[s : s + size])]
    table = mixing(attention, weight, k, real, starts)
    rows = {}
    for start in starts:
        own = [n for n in range(start, min(start + size, length)) if real[n]]
        sorted_keys, sorted_values = [], []
        for place in range(size):
            parts = [
                (p, s + place)
                for s, p in table[start].items()
                if s + place < length and real[s + place]
            ]
            if parts:
                sorted_keys.append(sum(p * k[n] for p, n in parts))
                sorted_values.append(sum(p * v[n] for p, n in parts))
        for i in own:
            seen = [n for n in own if n <= i or not causal]
            keys = torch.stack([k[n] for n in seen] + sorted_keys)
            values = torch.stack([v[n] for n in seen] + sorted_values)
            weights = (keys @ q[i] / q.shape[-1] ** 0.5).exp()
            rows[i] = weights @ values / weights.sum()
    return rows


def mixing(
    attention: Any, weight: Tensor, k: Tensor, real: list[bool], starts: list[int]
) -> dict[int, dict[int, Tensor]]:
    """P as {first position of a block: {first position of a block that is mixed in: weight}}."""
    causal, size = attention.pattern == "causal_self", attention.block_size
    table: dict[int, dict[int, Tensor]] = {}
    for start in starts:
        summed = range(start + 1) if causal else range(start, min(start + size, len(real)))
        descriptor = sum((k[n] for n in summed if real[n]), torch.zeros_like(k[0]))
        logits = descriptor @ weight
        table[start] = {
            s: (logits[s // size] / attention.temperature).exp()
            for s in starts
            if s < start or not causal
        }
    for _ in range(attention.num_iterations):
        table = {r: {s: p / sum(row.values()) for s, p in row.items()} for r, row in table.items()}
        table = {
            r: {s: p / sum(table[t][s] for t in starts if s in table[t] and (t <= r or not causal))
                for s, p in row.items()}
            for r, row in table.items()
        }  # fmt: skip
    return table
