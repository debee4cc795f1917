"""Hyena with every convolution as a sum over positions, and every filter value by itself."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SETTINGS = {"order": 3, "filter_width": 5, "filter_bands": 3}
STATE_GROWS = True


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    real = ~key_padding_mask[..., None]
    rows = (query @ attention.in_proj.weight.T + attention.in_proj.bias) * real
    size = attention.conv.shape[1]
    streams = []
    for t in range(rows.shape[1]):
        seen = range(max(0, t - size + 1), t + 1)
        row = sum(rows[:, j] * attention.conv[:, size - 1 - t + j] for j in seen)
        streams.append(row + attention.conv_bias)
    *gates, v = (torch.stack(streams, dim=1) * real).chunk(attention.order + 1, dim=-1)
    for gate, long in zip(gates[:0:-1], attention.long, strict=True):
        v = long.skip * (gate * v) + long_convolution(
            lambda *at, of=long: value(of, *at), gate * v, attention.pattern == "noncausal_self"
        )
    return (gates[0] * v) @ attention.out_proj.weight.T + attention.out_proj.bias


def long_convolution(filter_at: Callable[[int, int], Tensor], x: Tensor, both_ways: bool) -> Tensor:
    """Sums over positions; the filter (E,) is asked for by direction, 0 or 1, and distance."""
    length = x.shape[1]
    ahead, behind = 1, 0
    rows = []
    for i in range(length):
        row: Any = sum(filter_at(behind, i - j) * x[:, j] for j in range(i + 1))
        if both_ways:
            after = range(i + 1, length)
            row = row + sum(filter_at(ahead, j - i - 1) * x[:, j] for j in after)
        rows.append(row)
    return torch.stack(rows, dim=1)


def features(long: Any, distance: int) -> Tensor:
    longest, bands = long.max_len, long.bands
    steps = [1e-4 + (bands - 1 - 1e-4) * b / max(1, bands - 1) for b in range(bands)]
    angles = [2 * math.pi * distance / longest * f for f in steps]
    waves = [*(math.cos(a) for a in angles), *(-math.sin(a) for a in angles)]
    return torch.tensor([distance / (longest - 1), *waves], dtype=torch.float64)


def value(long: Any, direction: int, distance: int) -> Tensor:
    """The filter (E,) at one distance."""
    channels = len(long.skip)
    h = features(long, distance)
    for layer in long.hidden:
        h = torch.sin(long.frequency * (layer.weight @ h + layer.bias))
    h = long.filters.weight[direction * channels : (direction + 1) * channels] @ h
    slow, fast = math.log(100) / 1.5, math.log(100) / 0.3
    rates = [slow + (fast - slow) * c / (channels - 1) for c in range(channels)]
    t = distance / (long.max_len - 1)
    return h * (-t * torch.tensor(rates, dtype=torch.float64)).exp()
