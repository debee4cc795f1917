"""A convolution as long as the sequence, whose filter is a small network of the distance.

Source: Poli et al., "Hyena Hierarchy: Towards Larger Convolutional Language Models", ICML 2023,
arXiv:2302.10866, and the authors' code (safari), which gives the initial values and trains the
network without weight decay.
Departs from it: the features of a distance are fixed, where the code trains them too.

Shapes: B batch, L length, E channels, n distances.
"""

import itertools
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.functional.fft_convolution import fft_convolution
from attentions.functional.growing import append


class LongConvolution(nn.Module):
    """h * x + skip x with h(t) = MLP(features of t) exp(-rate t), t from 0 to 1 over `max_len`.

    Features are t itself and cosines and sines of it; the MLP has three hidden layers of sines.

    Args:
        channels: E, each with a filter and a fixed rate of its own.
        max_len: The length to which t, and with it the filter, is scaled.
        both_ways: Whether there is a second filter, for the positions after each.
        width: Of the hidden layers.
        bands: Number of frequencies of the features.
        frequency: Initial factor inside the sines of the hidden layers.
    """

    memory: ClassVar = ("filter", "inputs")
    undecayed: ClassVar = dict.fromkeys(("hidden", "frequency", "filters"), math.inf)

    def __init__(
        self,
        channels: int,
        max_len: int,
        *,
        both_ways: bool,
        width: int,
        bands: int,
        frequency: float,
    ) -> None:
        super().__init__()
        self.max_len = max_len
        self.bands = bands
        sizes = [1 + 2 * bands, width, width, width]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.frequency = nn.Parameter(torch.full((width,), frequency))
        self.filters = nn.Linear(width, (2 if both_ways else 1) * channels, bias=False)
        self.skip = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, L, E), float32 at least."""
        filters = self.filter(torch.arange(x.shape[1], device=x.device), x.dtype)
        return fft_convolution(x.mT, *filters).mT

    def filter(self, distance: Tensor, dtype: torch.dtype) -> Tensor:
        """The filters (1 or 2, E, n) at the distances (n,), with the skip at distance zero."""
        i = distance.to(dtype)[:, None]
        t = i / max(1, self.max_len - 1)
        bands = torch.linspace(1e-4, self.bands - 1, self.bands, dtype=dtype, device=t.device)
        angle = (2 * math.pi / self.max_len) * i * bands
        h = torch.cat([t, angle.cos(), -angle.sin()], dim=-1)
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            h = F.linear(h, layer.weight.to(dtype), layer.bias.to(dtype))
            h = (self.frequency.to(dtype) * h).sin()
        channels = len(self.skip)
        h = F.linear(h, self.filters.weight.to(dtype)).unflatten(-1, (-1, channels))
        # They fade to a hundredth within 1.5 of `max_len` to 0.3 of it.
        rate = torch.linspace(1 / 1.5, 1 / 0.3, channels, dtype=dtype, device=t.device)
        h = (h * (-math.log(100) * t * rate).exp()[:, None]).movedim(0, -1)
        here = torch.stack([self.skip.to(dtype), torch.zeros_like(rate)][: len(h)])
        return h + here[..., None] * (distance == 0)

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
