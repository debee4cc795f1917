"""ABC by its definition, the slots computed anew for each query from the positions it may see."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"num_slots": 5}
BLOCK = 8  # of the running softmax


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    samples = []
    for b in range(len(q)):
        rows = []
        for i in range(q.shape[2]):
            end = i + 1 if attention.pattern == "causal_self" else k.shape[2]
            keys = [j for j in range(end) if not key_padding_mask[b, j]]
            k_slots = slots(k[b][:, keys], attention.key_control)
            v_slots = slots(v[b][:, keys], attention.value_control)
            weights = (q[b, :, i, None] @ k_slots.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
            rows.append(weights @ v_slots)
        samples.append(torch.cat(rows, dim=1))
    return merge(attention, torch.stack(samples))


def slots(x: Tensor, control: Tensor) -> Tensor:
    """(H, positions, D) to (H, slots, D), each a mean over the positions; zero without any."""
    weights = (x @ control).exp()
    return (weights / weights.sum(dim=1, keepdim=True)).mT @ x
