"""Selective attention as a dense table: each query's logits times its temperature, token by token.

Exact limit: temperatures of one are softmax attention.
"""

import math
from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge, weighted_mean

STATE_GROWS = True  # every key and value is kept


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    tau_q = temperatures(q, attention.query_token[:, :, 0], attention.query_alpha)
    tau_v = temperatures(v, attention.value_token[:, :, 0], attention.value_alpha)
    weights = (tau_q[..., None] * (q @ k.mT) / q.shape[-1] ** 0.5).exp()
    weights = weights * ~key_padding_mask[:, None, None, :]
    if attention.pattern == "causal_self":
        weights = weights.tril()
    return merge(attention, weighted_mean(weights, tau_v[..., None] * v))


def temperatures(x: Tensor, token: Tensor, alpha: Tensor) -> Tensor:
    """(B, H, L, D) to (B, H, L)."""
    share = 1 / (1 + torch.exp(-alpha))
    each = [
        torch.tanh((token * x[:, :, t - 1]).sum(dim=-1)) + 1 + share * math.log(t)
        for t in range(1, x.shape[2] + 1)
    ]
    return torch.stack(each, dim=2)
