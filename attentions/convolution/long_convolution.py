"""A convolution as long as the sequence, whose filter is a small network of the distance.

Source: Poli et al., "Hyena Hierarchy: Towards Larger Convolutional Language Models", ICML 2023,
arXiv:2302.10866, and the authors' code (safari).

Shapes: B batch, L length, E channels, n distances.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from attentions.functional.fft_convolution import fft_convolution
from attentions.functional.growing import append


class LongConvolution(nn.Module):
    """h * x plus a multiple of x; a subclass writes `filter`, of the distance over `max_len`."""

    memory: ClassVar = ("filter", "inputs")
    max_len: int

    def filter(self, distance: Tensor, dtype: torch.dtype) -> Tensor:
        """The filters (1 or 2, E, n) at the distances (n,), of the past and of what comes after.

        The multiple of x itself is in the first, at distance zero.
        """
        raise NotImplementedError(f"{type(self).__name__} has no filter")

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, L, E), float32 at least."""
        filters = self.filter(torch.arange(x.shape[1], device=x.device), x.dtype)
        return fft_convolution(x.mT, *filters).mT

    def decode(
        self, x: Tensor, memory: Mapping[str, Tensor], position: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Convolve x (B, L, E), which stands at `position`: after a first part, one at a time.

        A step takes L E time, for the memory is all inputs so far, and the filter so as not to
        compute it anew.

        Args:
            x: A first part of any length, or one position more.
            memory: By the names in `memory`, (B, 1, room, E) each; {} before the first part.
            position: How many positions came before.

        Returns:
            (B, L, E), and the memory, whose tensors may be those given, overwritten.
        """
        distance = torch.arange(position, position + x.shape[1], device=x.device)
        filters = self.filter(distance, x.dtype)  # (1, E, L)
        new = filters.mT[:, None].expand(len(x), -1, -1, -1)
        kept = append(memory, position, filter=new, inputs=x[:, None])
        if not position:
            return fft_convolution(x.mT, *filters).mT, kept
        known, inputs = (kept[name][:, 0, : position + 1] for name in self.memory)
        return (known.flip(1) * inputs).sum(dim=1, keepdim=True), kept


def distance_features(distance: Tensor, max_len: int, num_bands: int, dtype: torch.dtype) -> Tensor:
    """t from 0 to 1 over `max_len`, and cosines and sines of it: (n, 1 + 2 num_bands)."""
    i = distance.to(dtype)[:, None]
    bands = torch.linspace(1e-4, num_bands - 1, num_bands, dtype=dtype, device=distance.device)
    angle = (2 * math.pi / max_len) * i * bands
    return torch.cat([i / max(1, max_len - 1), angle.cos(), -angle.sin()], dim=-1)


def at_zero(weight: Tensor, distance: Tensor, num_filters: int) -> Tensor:
    """`weight` (E,) at distance zero of the first filter: (num_filters, E, n) to be added."""
    here = torch.stack([weight, torch.zeros_like(weight)][:num_filters])
    return here[..., None] * (distance == 0)


def start_small(network: nn.Module) -> None:
    """Weights of its linear maps from N(0, 0.02^2) and no biases, as the authors' models start.

    A network of sines amplifies its input by the frequency: with torch's own weights, some six
    times as large, the filter would be white noise.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
