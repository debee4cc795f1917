"""Retention by its recurrence over positions, a pair of dimensions as one complex number."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

BLOCK = 64  # the chunk of the causal scan


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    num_heads, head_dim = attention.num_heads, attention.head_dim
    q, k, v = heads(attention, query, context)
    gate = q[:, num_heads:]
    q, k = (torch.complex(*x[:, :num_heads].chunk(2, dim=-1)) for x in (q, k))
    k = k.conj() * ~key_padding_mask[:, None, :, None]
    expansion = v.shape[1] // num_heads
    v = torch.stack([torch.cat(x.unbind(1), -1) for x in v.split(expansion, dim=1)], dim=1)

    gamma = [1 - 2.0 ** -(attention.first_exponent + h) for h in range(num_heads)]
    base = attention.rotary_base
    angles = [0.0 if base is None else base ** (-i / head_dim) for i in range(0, head_dim, 2)]
    theta = torch.tensor(angles, dtype=torch.float64)
    turn = torch.polar(torch.ones_like(theta), theta)
    step = torch.stack([g * turn for g in gamma])[..., None]  # (H, D / 2, 1)

    after = states(k, v, step)
    length = q.shape[2]
    if attention.pattern.is_cross:
        final = [after[last(mask)][b] for b, mask in enumerate(key_padding_mask)]
        retained = q @ torch.stack(final)
    else:
        retained = torch.stack([read(q, i, after[i]) for i in range(length)], dim=2)
    if attention.pattern == "noncausal_self":
        later = states(k.flip(2), v.flip(2), step.conj())[::-1]
        later = [later[i] - k[:, :, i, :, None] * v[:, :, i, None] for i in range(length)]
        retained = retained + torch.stack([read(q, i, later[i]) for i in range(length)], dim=2)
    out = retained.real / head_dim**0.5
    out = out / (out.square().mean(dim=-1, keepdim=True) + attention.eps).sqrt()
    narrow = torch.cat([torch.stack(x.split(head_dim, dim=-1), 1) for x in out.unbind(1)], dim=1)
    return merge(attention, narrow * gate * gate.sigmoid())


def read(q: Tensor, i: int, state: Tensor) -> Tensor:
    """The query at position i applied to a state: (B, H, values)."""
    return (q[:, :, i, None] @ state)[:, :, 0]


def states(k: Tensor, v: Tensor, step: Tensor) -> list[Tensor]:
    """The state (B, H, D / 2, values) after each position."""
    state, after = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None]), []
    for i in range(k.shape[2]):
        state = step * state + k[:, :, i, :, None] * v[:, :, i, None]
        after.append(state)
    return after


def last(padding: Tensor) -> int:
    """The last position that is no padding, or the first of padding alone."""
    return max([i for i, is_padding in enumerate(padding) if not is_padding], default=0)
