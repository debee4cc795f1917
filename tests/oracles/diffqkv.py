"""DiffQKV attention head by head, each reading the key head and the value head of its group."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import merge, weighted_mean

SETTINGS = {"num_heads": 4, "num_key_heads": 1, "num_value_heads": 2}
STATE_GROWS = True  # every key and value is kept


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    width = attention.embed_dim // attention.num_heads
    augmented = attention.q_proj
    y = linear(augmented.proj, query)
    gate = linear(augmented.gate_proj, y)
    hidden = gate / (1 + (-gate).exp()) * linear(augmented.up_proj, y)
    q = linear(augmented.down_proj, hidden).split(width, dim=-1)
    k = linear(attention.k_proj, context).split(width, dim=-1)
    v = linear(attention.v_proj, context).split(width, dim=-1)
    mixed = []
    for h in range(attention.num_heads):
        key_head, value_head = (h * len(x) // attention.num_heads for x in (k, v))
        weights = (q[h] @ k[key_head].mT / width**0.5).exp() * ~key_padding_mask[:, None, :]
        if attention.pattern == "causal_self":
            weights = weights.tril()
        mixed.append(weighted_mean(weights, v[value_head]))
    return merge(attention, torch.stack(mixed, dim=1))


def linear(proj: Any, x: Tensor) -> Tensor:
    return x @ proj.weight.T + proj.bias
