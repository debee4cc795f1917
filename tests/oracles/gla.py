"""Gated linear attention by its recurrence over positions; a padded one is left out of it."""

from typing import Any

import torch
from torch import Tensor

BLOCK = 64  # the chunk of the gated scan


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    num_heads, key_dim = attention.num_heads, attention.key_dim
    q, gate = by_head(linear(attention.q_proj, query), num_heads).tensor_split([key_dim], dim=-1)
    k = by_head(linear(attention.k_proj, context), num_heads)
    v = by_head(linear(attention.v_proj, context), num_heads)
    first, second = attention.decay_proj
    alpha = linear(second, context @ first.weight.T).sigmoid() ** (1 / attention.gate_temperature)
    alpha = by_head(alpha, num_heads)

    mixed = gated_recurrence(q, k, v, alpha, key_padding_mask, attention.pattern) / key_dim**0.5
    normed = mixed / (mixed.square().mean(dim=-1, keepdim=True) + attention.eps).sqrt()
    out = normed * attention.norm * gate * gate.sigmoid()
    return linear(attention.out_proj, torch.cat(out.unbind(dim=1), dim=-1))


def gated_recurrence(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, padding: Tensor, pattern: Any
) -> Tensor:
    """q S with S_t = diag(alpha_t) S_{t-1} + k_t v_t^T in the given pattern: (B, H, M, D)."""
    is_cross, both_ways = pattern.is_cross, pattern == "noncausal_self"
    samples = []
    for b, mask in enumerate(padding):
        kept = [t for t, is_padding in enumerate(mask) if not is_padding]
        after = states(k[b], v[b], alpha[b], kept)
        if is_cross:
            samples.append(q[b] @ after[-1])
            continue
        if both_ways:
            later = states(k[b], v[b], alpha[b], kept[::-1])
            for t in kept:
                own = k[b][:, t, :, None] * v[b][:, t, None]
                after[t] = after[t] + later[t] - own
        samples.append(torch.cat([q[b][:, t, None] @ after[t] for t in range(q.shape[2])], dim=1))
    return torch.stack(samples)


def states(k: Tensor, v: Tensor, alpha: Tensor, order: list[int]) -> dict[int, Tensor]:
    """The states (H, F, D) after each position of `order`; -1 is the last, zero all others."""
    state = torch.zeros_like(k[:, 0, :, None] * v[:, 0, None])
    after = dict.fromkeys(range(k.shape[1]), state)
    for t in order:
        state = alpha[:, t, :, None] * state + k[:, t, :, None] * v[:, t, None]
        after[t] = state
    return after | {-1: state}


def by_head(x: Tensor, num_heads: int) -> Tensor:
    """(B, L, H W) to (B, H, L, W)."""
    return torch.stack(x.chunk(num_heads, dim=-1), dim=1)


def linear(proj: Any, x: Tensor) -> Tensor:
    return x @ proj.weight.T + proj.bias
