"""SR3's U-Net: predicts the noise in an image, beside a blurred one and told how much noise it is.

Source: Saharia et al., "Image Super-Resolution via Iterative Refinement", TPAMI 2022,
arXiv:2104.07636, as the code that CAB ran has it:
Janspiry/Image-Super-Resolution-via-Iterative-Refinement, commit ef9b943, model/sr3_modules/unet.py.
Departs from it: an attention is the mechanism's own, with its projections and its initial weights
(the code's have no bias on query, key and value, and start orthogonal as the convolutions do); one
list of resolutions with attention for every mechanism, where CAB left out 128 for softmax.

Shapes: B batch, C channels, S side of the image.
"""

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Attention, Pattern
from tasks.base import AttentionSlots


class UNet(nn.Module):
    """Blocks of convolutions down to a small image and up again, some of them with attention.

    Args:
        slots: Give the attentions, in the order in which an image passes them.
        image_size: S.
        channels: C.
        base_dim: Channels at full resolution.
        multipliers: Of the channels, at S, S / 2, S / 4 ...
        num_blocks: Of each resolution on the way down; one more on the way up.
        attention_resolutions: Sides of the images whose blocks have attention. The middle, at the
            smallest, has one in any case.
        num_heads: Of each attention.
        num_groups: Of each group normalisation.
        dropout: In each block, on what enters its second convolution.

    Raises:
        ValueError: If S cannot be halved so often, or has no such resolution.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        image_size: int,
        channels: int = 3,
        base_dim: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8, 8),
        num_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16, 32, 64, 128),
        num_heads: int = 1,
        num_groups: int = 32,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        sides = [image_size >> level for level in range(len(multipliers))]
        if image_size % 2 ** (len(sides) - 1) or not sides[-1]:
            raise ValueError(f"image_size {image_size} cannot be halved {len(sides) - 1} times")
        for side in attention_resolutions:
            if side not in sides:
                raise ValueError(f"attention_resolutions must be among {sides}, got {side}")
        dims = [base_dim * multiplier for multiplier in multipliers]
        num_places = (2 * num_blocks + 1) * len(set(attention_resolutions)) + 1
        layers = itertools.count()

        def block(in_dim: int, out_dim: int, side: int, *, attends: bool | None = None) -> Block:
            attention = None
            if side in attention_resolutions if attends is None else attends:
                attention = slots.build(
                    Pattern.NONCAUSAL_SELF,
                    embed_dim=out_dim,
                    num_heads=num_heads,
                    layer=next(layers),
                    num_layers=num_places,
                    max_len=side * side,
                    grid=(side, side),
                )
            return Block(in_dim, out_dim, base_dim, attention, num_groups, dropout)

        self.level = nn.Sequential(
            Waves(base_dim),
            nn.Linear(base_dim, 4 * base_dim),
            nn.SiLU(),
            nn.Linear(4 * base_dim, base_dim),
        )
        down: list[nn.Module] = [nn.Conv2d(2 * channels, base_dim, 3, padding=1)]
        skipped, dim = [base_dim], base_dim
        for out_dim, side in zip(dims, sides, strict=True):
            if side < image_size:
                down.append(nn.Conv2d(dim, dim, 3, stride=2, padding=1))
                skipped.append(dim)
            for _ in range(num_blocks):
                down.append(block(dim, out_dim, side))
                skipped.append(dim := out_dim)
        middle = [block(dim, dim, sides[-1], attends=here) for here in (True, False)]
        up: list[nn.Module] = []
        for out_dim, side in zip(reversed(dims), reversed(sides), strict=True):
            for _ in range(num_blocks + 1):
                up.append(block(dim + skipped.pop(), out_dim, side))
                dim = out_dim
            if side < image_size:
                up.append(Doubled(dim))
        self.down, self.middle, self.up = map(nn.ModuleList, (down, middle, up))
        self.leave = nn.Sequential(
            nn.GroupNorm(num_groups, dim), nn.SiLU(), nn.Conv2d(dim, channels, 3, padding=1)
        )
        self._reset(slots)

    def _reset(self, slots: AttentionSlots) -> None:
        """Orthogonal weights and no biases, but for what is a mechanism's own."""
        others = {
            m
            for module in self.modules()
            if isinstance(module, Attention)
            for m in module.modules()
        }
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module not in others:
                nn.init.orthogonal_(module.weight)
                nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, noisy: Tensor, condition: Tensor, level: Tensor) -> Tensor:
        """The noise in an image.

        Args:
            noisy: (B, C, S, S).
            condition: What it is to become, blurred, (B, C, S, S).
            level: How much is left of the image, the root of its share in the variance, (B,).

        Returns:
            (B, C, S, S).
        """
        dtype = cast(nn.Conv2d, self.leave[-1]).weight.dtype
        told = self.level(level)
        x = torch.cat([condition, noisy], dim=1).to(dtype)
        kept = []
        for module in self.down:
            x = module(x, told) if isinstance(module, Block) else module(x)
            kept.append(x)
        for module in self.middle:
            x = module(x, told)
        for module in self.up:
            if isinstance(module, Block):
                x = module(torch.cat([x, kept.pop()], dim=1), told)
            else:
                x = module(x)
        return self.leave(x)


class Waves(nn.Module):
    """Numbers (B,) as sines and cosines (B, dim), of wavelengths from 2 pi to 20,000 pi."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """(B,) to (B, dim)."""
        count = self.dim // 2
        steps = torch.arange(count, device=x.device, dtype=x.dtype) / count
        angles = x[:, None] * torch.exp(-math.log(1e4) * steps)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Doubled(nn.Module):
    """An image of twice the side: each pixel four times, then a convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, S, S) to (B, dim, 2S, 2S)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Block(nn.Module):
    """Two convolutions beside a residual, told the noise level in between; then attention."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        level_dim: int,
        attention: Attention | None,
        num_groups: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(num_groups, in_dim), nn.SiLU(), nn.Conv2d(in_dim, out_dim, 3, padding=1)
        )
        self.level = nn.Linear(level_dim, out_dim)
        self.second = nn.Sequential(
            nn.GroupNorm(num_groups, out_dim),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_dim, out_dim, 3, padding=1),
        )
        self.residual = nn.Conv2d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()
        self.attention = attention
        self.norm = None if attention is None else nn.GroupNorm(num_groups, out_dim)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, in_dim, S, S) and (B, level_dim) to (B, out_dim, S, S)."""
        hidden = self.first(x) + self.level(level)[..., None, None]
        x = self.second(hidden) + self.residual(x)
        if self.attention is None or self.norm is None:
            return x
        tokens = self.norm(x).flatten(2).mT  # the pixels, row by row
        return x + self.attention(tokens).mT.unflatten(2, x.shape[2:])
