"""Hyena with every convolution as a sum over positions, and every filter value by itself."""

import math
from typing import Any

import torch
from torch import Tensor

# Of sines of a high frequency, one inside the other, float32 gives the filter to 1e-4 only.
SETTINGS = {"order": 3, "filter_width": 5, "filter_bands": 3, "filter_frequency": 2.0}
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
        v = long_convolution(long, gate * v, attention.pattern == "noncausal_self")
    return (gates[0] * v) @ attention.out_proj.weight.T + attention.out_proj.bias


def long_convolution(long: Any, x: Tensor, both_ways: bool) -> Tensor:
    length = x.shape[1]
    ahead, behind = 1, 0
    rows = []
    for i in range(length):
        row = long.skip * x[:, i] + sum(value(long, behind, i - j) * x[:, j] for j in range(i + 1))
        if both_ways:
            after = range(i + 1, length)
            row = row + sum(value(long, ahead, j - i - 1) * x[:, j] for j in after)
        rows.append(row)
    return torch.stack(rows, dim=1)


def value(long: Any, direction: int, distance: int) -> Tensor:
    """The filter (E,) at one distance."""
    channels, longest, bands = len(long.skip), long.max_len, long.bands
    t = distance / (longest - 1)
    steps = [1e-4 + (bands - 1 - 1e-4) * b / max(1, bands - 1) for b in range(bands)]
    angles = [2 * math.pi * distance / longest * f for f in steps]
    features = [t, *(math.cos(a) for a in angles), *(-math.sin(a) for a in angles)]
    h = torch.tensor(features, dtype=torch.float64)
    for layer in long.hidden:
        h = torch.sin(long.frequency * (layer.weight @ h + layer.bias))
    h = long.filters.weight[direction * channels : (direction + 1) * channels] @ h
    slow, fast = math.log(100) / 1.5, math.log(100) / 0.3
    rates = [slow + (fast - slow) * c / (channels - 1) for c in range(channels)]
    return h * (-t * torch.tensor(rates, dtype=torch.float64)).exp()
