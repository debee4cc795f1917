"""Softmax attention as a dense table of exponentials, each row divided by its sum."""

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
    group = q.shape[1] // k.shape[1]
    k, v = (torch.repeat_interleave(x, group, dim=1) for x in (k, v))
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp()
    weights = weights * ~key_padding_mask[:, None, None, :]
    if attention.pattern == "causal_self":
        weights = weights.tril()
    return merge(attention, weighted_mean(weights, v))
