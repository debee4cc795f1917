"""BaseConv with its convolutions as sums over positions."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles.hyena import features, long_convolution

STATE_GROWS = True


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    u = query * ~key_padding_mask[..., None]
    both_ways = attention.pattern == "noncausal_self"
    if attention.long is None:
        convolved = short_convolution(attention.short, u, both_ways)
    else:
        long = attention.long
        convolved = u + long_convolution(lambda *at: value(long, *at), u, both_ways)
    gate = query @ attention.gate_proj.weight.T + attention.gate_proj.bias
    return gate * (convolved + attention.conv_bias)


def value(long: Any, direction: int, distance: int) -> Tensor:
    """The filter (E,) at one distance."""
    h = long.hidden.weight @ features(long, distance) + long.hidden.bias
    rows = range(direction * long.channels, (direction + 1) * long.channels)
    weight, bias = long.filters.weight[rows], long.filters.bias[rows]
    return weight @ h.clamp(min=0) + bias


def short_convolution(weight: Tensor, u: Tensor, both_ways: bool) -> Tensor:
    """The last weight is that of the position itself, or of the next one in the second filter."""
    length, size = u.shape[1], weight.shape[-1]
    rows = []
    for i in range(length):
        before = range(max(0, i - size + 1), i + 1)
        row = sum(weight[0, :, size - 1 - (i - j)] * u[:, j] for j in before)
        if both_ways:
            after = range(i + 1, min(length, i + size + 1))
            row = row + sum(weight[1, :, size - (j - i)] * u[:, j] for j in after)
        rows.append(row)
    return torch.stack(rows, dim=1)
