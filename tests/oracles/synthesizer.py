"""The dense synthesizer as a dense table of logits, a feed-forward net of each query."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import merge, weighted_mean

STATE_GROWS = True  # every value is kept


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    num_keys = context.shape[1]
    hidden = split(attention, attention.q_proj, query).clamp(min=0)
    logits = torch.einsum("bhid,hjd->bhij", hidden, attention.second_layer[:, :num_keys])
    return attend(attention, logits, context, key_padding_mask)


def attend(attention: Any, logits: Tensor, context: Tensor, key_padding_mask: Tensor) -> Tensor:
    """Values weighted by softmax(logits), (1 or B, H, M, N)."""
    weights = logits.exp() * ~key_padding_mask[:, None, None, :]
    if attention.pattern == "causal_self":
        weights = weights.tril()
    return merge(attention, weighted_mean(weights, split(attention, attention.v_proj, context)))


def split(attention: Any, proj: Any, x: Tensor) -> Tensor:
    """(B, L, E) to (B, H, L, D)."""
    projected = x @ proj.weight.T + proj.bias
    return torch.stack(projected.chunk(attention.num_heads, dim=-1), dim=1)
