"""S4D by its recurrence, one position after another."""

from typing import Any

import torch
from torch import Tensor

SETTINGS = {"channels": 2}


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    u = query * ~key_padding_mask[..., None]
    y = attention.skip * u[:, :, None]  # (B, L, channels, E)
    y = y + torch.stack(responses(attention, u, 0), dim=1)
    if attention.pattern == "noncausal_self":
        # What stands behind a position answers as if the next one were the first.
        back = responses(attention, u.flip(1), 1)
        y = y + torch.stack([torch.zeros_like(back[0]), *back[:-1]], dim=1).flip(1)
    y = y.flatten(2)
    y = y * (1 + torch.erf(y / 2**0.5)) / 2
    value, gate = (y @ attention.out_proj.weight.T + attention.out_proj.bias).chunk(2, dim=-1)
    return value * gate.sigmoid()


def responses(attention: Any, u: Tensor, direction: int) -> list[Tensor]:
    """2 Re C x_t at each position: (B, channels, E)."""
    a = -attention.log_decay.exp() + 1j * attention.frequency
    factor = (attention.log_step.exp()[:, None] * a).exp()
    b = (factor - 1) / a
    c = attention.c[direction, ..., 0] + 1j * attention.c[direction, ..., 1]
    x, out = torch.zeros_like(b), []
    for t in range(u.shape[1]):
        x = factor * x + b * u[:, t, :, None]
        out.append(2 * (c * x[:, None]).sum(dim=-1).real)
    return out
