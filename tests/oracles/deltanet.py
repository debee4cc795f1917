"""The delta rule by its recurrence over positions, a matrix of the paper's at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

BLOCK = 64  # the chunk of the delta rule

Decay = Callable[[Tensor], Tensor]
Gate = Callable[[Tensor, Tensor], Tensor]


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    masks = (query_padding_mask, key_padding_mask)
    normed = delta_layer(attention, query, context, *masks, decay=lambda x: torch.ones(()))
    return merge(attention, normed)


def delta_layer(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding: Tensor,
    key_padding: Tensor,
    decay: Decay,
) -> Tensor:
    """Up to the norm: (B, H, M, V). `decay` maps x (B, N, E) to alpha, broadcast to (B, H, N)."""
    real = ~key_padding[:, None, :]
    projected = heads(attention, query, context)
    q = projected[0] * ~query_padding[:, None, :, None]
    k, v = (x * real[..., None] for x in projected[1:])
    # The heads of the values may be several times as wide.
    v = torch.stack([torch.cat(x.unbind(1), -1) for x in v.chunk(attention.num_heads, 1)], dim=1)
    beta = (context @ attention.beta_proj.weight.T + attention.beta_proj.bias).sigmoid().mT * real
    alpha = torch.where(real, decay(context), 1.0)
    if attention.pattern.is_cross:
        q = unit(convolved(q, attention.q_conv))
        final = states(attention, k, v, alpha, beta)[-1]  # (B, H, V, D)
        mixed = (final[:, :, None] @ q[..., None])[..., 0]
    else:
        mixed = recurred(attention, q, k, v, alpha, beta)
        if attention.pattern == "noncausal_self":
            flipped = [x.flip(2) for x in (q, k, v, alpha, beta)]
            mixed = mixed + recurred(attention, *flipped).flip(2)
    mixed = mixed / attention.head_dim**0.5
    return mixed / (mixed.square().mean(-1, keepdim=True) + attention.eps).sqrt() * attention.norm


def recurred(
    attention: Any, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor
) -> Tensor:
    """S_t q_t at each position: (B, H, N, V)."""
    q = unit(convolved(q, attention.q_conv))
    after = states(attention, k, v, alpha, beta)
    read = [(state @ q[:, :, t, :, None])[..., 0] for t, state in enumerate(after)]
    return torch.stack(read, dim=2)


def states(attention: Any, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> list[Tensor]:
    """S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T after each position."""
    k, v = unit(convolved(k, attention.k_conv)), convolved(v, attention.v_conv)
    eye = torch.eye(k.shape[-1], dtype=k.dtype)
    state, after = torch.zeros_like(v[:, :, 0, :, None] * k[:, :, 0, None]), []
    for t in range(k.shape[2]):
        key, value = k[:, :, t, :, None], v[:, :, t, :, None]
        a, b = alpha[:, :, t, None, None], beta[:, :, t, None, None]
        state = a * state @ (eye - b * key * key.mT) + b * value * key.mT
        after.append(state)
    return after


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    """silu of a causal convolution of x (B, H, N, C), the weight (H C, W) newest position last."""
    weight = weight.unflatten(0, (x.shape[1], -1))  # (H, C, W)
    size = weight.shape[-1]
    rows = []
    for t in range(x.shape[2]):
        seen = range(max(0, t - size + 1), t + 1)
        rows.append(sum(x[:, :, j] * weight[..., size - 1 - t + j] for j in seen))
    out = torch.stack(rows, dim=2)
    return out * out.sigmoid()


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()
