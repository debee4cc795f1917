"""Combiner position by position: softmax over the own span and the other spans' summaries."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"span_size": 4}
BLOCK = 8  # two spans
STATE_GROWS = True  # by one summary per span


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    out = torch.zeros_like(q)
    size, causal = attention.span_size, attention.pattern == "causal_self"
    for b in range(len(q)):
        real = [n for n in range(q.shape[2]) if not key_padding_mask[b, n]]
        spans: dict[int, list[int]] = {}
        for n in real:
            spans.setdefault(n // size, []).append(n)
        for h in range(q.shape[1]):
            summaries = {}
            for s, members in spans.items():
                top_q = torch.stack([max(q[b, h, members, d]) for d in range(q.shape[-1])])
                top_k = torch.stack([max(k[b, h, members, d]) for d in range(q.shape[-1])])
                summaries[s] = top_k, attend(top_q, k[b, h, members], v[b, h, members])
            for i in real:
                own = [j for j in spans[i // size] if j <= i or not causal]
                others = [s for s in spans if (s < i // size if causal else s != i // size)]
                keys = torch.stack([k[b, h, j] for j in own] + [summaries[s][0] for s in others])
                values = torch.stack([v[b, h, j] for j in own] + [summaries[s][1] for s in others])
                at = (torch.tensor(b), torch.tensor(h), torch.tensor(i))
                out = out.index_put(at, attend(q[b, h, i], keys, values))
    return merge(attention, out)


def attend(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    weights = (keys @ q / q.shape[-1] ** 0.5).exp()
    return weights @ values / weights.sum()
