"""Core context aware attention query by query: a list of cores and tokens, one softmax."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"group_size": 4, "window": 6}
BLOCK = 16  # four groups; the borders of blocks of queries: tests/attentions/test_cca_core.py
STATE_GROWS = True  # by a core per group


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    poolers, _, _ = heads(attention, context, context)
    mixed = torch.zeros_like(q)
    for b, padding in enumerate(key_padding_mask.tolist()):
        groups = split([j for j, is_padding in enumerate(padding) if not is_padding], attention)
        pooled = {r: core(poolers[b], k[b], v[b], tokens) for r, tokens in groups.items()}
        for i in range(q.shape[2]):
            seen = []
            for r, tokens in groups.items():
                start = r * attention.group_size
                places = range(start, start + attention.group_size)
                if is_far(attention, i, places):
                    seen.append(pooled[r])
                elif "cross" not in attention.pattern:
                    near = [j for j in tokens if j <= i or attention.pattern == "noncausal_self"]
                    seen.append((k[b][:, near], v[b][:, near]))
            if seen:
                keys, values = (torch.cat(x, dim=1) for x in zip(*seen, strict=True))
                if keys.shape[1]:
                    mixed[b, :, i] = (softmax(q[b, :, i, None], keys) @ values)[:, 0]
    return merge(attention, mixed)


def split(tokens: list[int], attention: Any) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for j in tokens:
        groups.setdefault(j // attention.group_size, []).append(j)
    return groups


def is_far(attention: Any, i: int, places: range) -> bool:
    if "cross" in attention.pattern:
        return True
    if attention.pattern == "causal_self":
        return all(i - j >= attention.window for j in places)
    return all(abs(i - j) >= attention.window for j in places)


def core(q: Tensor, k: Tensor, v: Tensor, tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Key and value (H, 1, D) of a group, pooled by its last token."""
    weights = softmax(q[:, tokens[-1:]], k[:, tokens])
    return weights @ k[:, tokens], weights @ v[:, tokens]


def softmax(q: Tensor, k: Tensor) -> Tensor:
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp()
    return weights / weights.sum(dim=-1, keepdim=True)
