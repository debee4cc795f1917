"""Mamba-2 by its recurrence over positions, one sample at a time; a padded one is left out."""

from typing import Any

import torch
from torch import Tensor

SETTINGS = {"state_dim": 5}
BLOCK = 64  # the chunk of the causal scan


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    samples = []
    for row, padding in zip(query, key_padding_mask, strict=True):
        kept = [t for t, is_padding in enumerate(padding) if not is_padding]
        z, xbc, dt = (row @ attention.in_proj.weight.T).split(attention.widths, dim=-1)
        dt = (1 + (dt + attention.dt_bias).exp()).log()
        y = recurrence(attention, xbc, dt, kept, step=1)
        if attention.pattern == "noncausal_self":
            y = y + recurrence(attention, xbc, dt, kept[::-1], step=-1)
        gated = y * z * z.sigmoid()
        size = (gated.square().mean(dim=-1, keepdim=True) + attention.eps).sqrt()
        samples.append(gated / size * attention.norm @ attention.out_proj.weight.T)
    return torch.stack(samples)


def recurrence(attention: Any, xbc: Tensor, dt: Tensor, order: list[int], step: int) -> Tensor:
    """y (L, inner): at the positions in `order`, one after the other, zero elsewhere."""
    inner, num_heads, size = attention.widths[0], attention.num_heads, attention.conv_size
    state = torch.zeros(num_heads, inner // num_heads, attention.state_dim, dtype=xbc.dtype)
    rows = {t: torch.zeros(inner, dtype=xbc.dtype) for t in range(len(xbc))}
    for t in order:
        convolved = attention.conv_bias
        for j in range(size):
            seen = t - step * j
            if seen in order:
                convolved = convolved + attention.conv[:, size - 1 - j] * xbc[seen]
        convolved = convolved * convolved.sigmoid()
        x, b, c = convolved.tensor_split([inner, inner + attention.state_dim])
        x = x.reshape(num_heads, -1)
        decay = (-attention.log_a.exp() * dt[t]).exp()
        state = decay[:, None, None] * state + (dt[t, :, None] * x)[..., None] * b
        rows[t] = (state @ c + attention.skip[:, None] * x).flatten()
    return torch.stack([rows[t] for t in range(len(xbc))])
