"""Mixture-of-head attention token by token: its gates from sorted probabilities, then its heads."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import merge, weighted_mean

SETTINGS = {"num_heads": 8, "num_shared": 3, "num_active": 2}
STATE_GROWS = True  # every key and value is kept


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    num_heads = attention.num_heads
    q, k, v = (
        torch.stack((x @ proj.weight.T + proj.bias).chunk(num_heads, dim=-1), dim=1)
        for x, proj in (
            (query, attention.q_proj.proj),
            (context, attention.k_proj),
            (context, attention.v_proj),
        )
    )
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp() * ~key_padding_mask[:, None, None, :]
    if attention.pattern == "causal_self":
        weights = weights.tril()
    mixed = weighted_mean(weights, v)
    gated = [
        torch.stack([gates(attention, x) for x in sample], dim=1)[..., None] * heads
        for sample, heads in zip(query, mixed, strict=True)
    ]
    return merge(attention, torch.stack(gated))


def gates(attention: Any, x: Tensor) -> Tensor:
    """One token's gates: of the shared heads first, then of the routed ones."""
    shared, active = attention.num_shared, attention.num_active
    logits = attention.q_proj.router.weight @ x
    w_s, w_r = logits[:shared], logits[shared : attention.num_heads]
    both = logits[-2:].exp() / logits[-2:].exp().sum()
    chosen = sorted(range(len(w_r)), key=lambda i: -float(w_r[i].detach()))[:active]
    total = sum(w_r[i].exp() for i in chosen)
    zero = torch.zeros((), dtype=x.dtype)
    routed = [active * w_r[i].exp() / total if i in chosen else zero for i in range(len(w_r))]
    return torch.cat(
        [2 * both[0] * shared * w_s.exp() / w_s.exp().sum(), 2 * both[1] * torch.stack(routed)]
    )
