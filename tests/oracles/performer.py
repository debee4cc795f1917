"""Performer as the dense matrix of its kernel estimates, each row divided by its sum."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge, weighted_mean

SETTINGS = {"num_features": 20, "redraw_every": None}
BLOCK = 64  # the chunk of the causal scan


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    log_phi_q, log_phi_k = (log_features(x, attention.features) for x in (q, k))
    phi_q = (log_phi_q - log_phi_q.amax(dim=-1, keepdim=True)).exp() + attention.eps
    weights = torch.einsum("bhir,bhjr->bhij", phi_q, log_phi_k.exp())
    weights = weights * ~key_padding_mask[:, None, None, :]
    if attention.pattern == "causal_self":
        weights = weights.tril()
    return merge(attention, weighted_mean(weights, v))


def log_features(x: Tensor, features: Tensor) -> Tensor:
    x = x / x.shape[-1] ** 0.25
    return torch.einsum("bhnd,hrd->bhnr", x, features) - (x**2).sum(dim=-1, keepdim=True) / 2
