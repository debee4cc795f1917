"""The small nets before and behind the layers of Transformer-TTS.

Source: see `tasks.backbones.transformer_tts`.

Shapes: B batch, L length, N tokens, S decoder steps, K frames per step, F mel bins, C channels,
E embed_dim.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.backbones.dropout import Dropout
from tasks.backbones.speech import Conv


class NormedConv(nn.Module):
    """A convolution over time and batch normalisation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, gain: str) -> None:
        super().__init__()
        self.conv = Conv(in_channels, out_channels, kernel_size, gain)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, L, C) to (B, L, C'); `padding` is bool (B, L), True for padding."""
        return self.norm(self.conv(x, padding).mT).mT


class EncoderPrenet(nn.Module):
    """Convolutions over the embedded tokens."""

    def __init__(self, embed_dim: int, num_layers: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            NormedConv(embed_dim, embed_dim, kernel_size, "relu") for _ in range(num_layers)
        )
        self.project = nn.Linear(embed_dim, embed_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, N, E) to (B, N, E)."""
        for conv in self.convs:
            x = self.dropout(F.relu(conv(x, padding)))
        return self.project(x)


class Prenet(nn.Module):
    """A bottleneck for the frames, whose dropout is on in evaluation too.

    Without it the decoder would learn to copy its last frames and not listen to the text.
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, num_layers: int, embed_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(hidden_dim if layer else in_dim, hidden_dim) for layer in range(num_layers)
        )
        self.project = nn.Linear(hidden_dim, embed_dim)
        self.hidden_dim, self.dropout = hidden_dim, dropout

    def draw(self, seeds: Tensor, num_steps: int) -> Tensor:
        """What the dropout keeps of each layer, bool (B, S, layers, hidden_dim).

        More steps begin with the same.

        Args:
            seeds: int64 (B,).
            num_steps: S.
        """
        shape = (num_steps, len(self.layers), self.hidden_dim)
        drawn = [
            torch.rand(shape, generator=torch.Generator().manual_seed(seed))
            for seed in seeds.tolist()
        ]
        return (torch.stack(drawn) >= self.dropout).to(seeds.device)

    def forward(self, frames: Tensor, kept: Tensor | None = None) -> Tensor:
        """Frames (B, S, K F) to (B, S, E); what is dropped is drawn anew unless given."""
        x = frames
        for depth, layer in enumerate(self.layers):
            x = F.relu(layer(x))
            if kept is None:
                x = F.dropout(x, self.dropout)
            else:
                x = x * kept[:, :, depth] / (1 - self.dropout)
        return self.project(x)


class Postnet(nn.Module):
    """What convolutions over time add to the frames."""

    def __init__(
        self, in_dim: int, hidden_dim: int, num_layers: int, kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        widths = [in_dim, *(hidden_dim for _ in range(num_layers - 1)), in_dim]
        self.convs = nn.ModuleList(
            NormedConv(narrow, wide, kernel_size, "tanh")
            for narrow, wide in itertools.pairwise(widths)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, S, K F) to (B, S, K F)."""
        for depth, conv in enumerate(self.convs, start=1):
            x = conv(x, padding)
            x = self.dropout(x if depth == len(self.convs) else x.tanh())
        return x
