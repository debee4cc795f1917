"""What the backbones of text to speech share: positions with a scale, convolutions over time.

Source: fairseq (`fairseq/models/text_to_speech`). Departs from it: padding is zero before every
convolution. There it is whatever it is, and reaches the last tokens and frames of the shorter rows
of a batch, so that what a row gives depends on the others.

Shapes: B batch, L length, C channels.
"""

import torch
from torch import Tensor, nn

from tasks.backbones.positions import sinusoids

FIRST = 2
"""Where the first token stands in fairseq's sines and cosines."""


class ScaledPositions(nn.Module):
    """Adds sines and cosines, times one learned scale, to x (B, L, C).

    Args:
        max_len: Number of rows.
        embed_dim: C.
        scale: At the beginning.
    """

    rows: Tensor

    def __init__(self, max_len: int, embed_dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.max_len = max_len
        self.scale = nn.Parameter(torch.tensor([scale]))
        rows = sinusoids(max_len + FIRST, embed_dim)[FIRST:]
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, x: Tensor, position: int = 0) -> Tensor:
        """x (B, L, C), whose rows stand at `position` and after, to (B, L, C).

        Raises:
            ValueError: If they reach beyond `max_len`.
        """
        end = position + x.shape[1]
        if end > self.max_len:
            raise ValueError(f"at most {self.max_len} positions (max_len), got {end}")
        return x + self.scale * self.rows[position:end]


class Conv(nn.Conv1d):
    """A convolution over time that keeps the length and does not see the padding.

    Args:
        in_channels: C of its input.
        out_channels: C of its output.
        kernel_size: An odd number.
        gain: Of the activation behind it, for `nn.init.calculate_gain`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, gain: str) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        nn.init.xavier_uniform_(self.weight, nn.init.calculate_gain(gain))  # type: ignore[arg-type]

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:  # type: ignore[override]
        """x (B, L, C), with `padding` bool (B, L), True for padding, to (B, L, C')."""
        return super().forward(blank(x, padding).mT).mT


def blank(x: Tensor, padding: Tensor | None) -> Tensor:
    """x (B, L, C), zero where `padding`, bool (B, L)."""
    return x if padding is None else x.masked_fill(padding[..., None], 0.0)
