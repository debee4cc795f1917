"""Where a token stands, added to its embedding.

Attention itself can tell positions too: see `rotary` of `attentions.base.MultiHeadAttention` and
`alibi` of softmax attention; with these `none` belongs here.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Kind = Literal["learned", "sinusoidal", "interleaved", "none"]


class Positions(nn.Module):
    """Adds a row for each position to x (B, L, E).

    Args:
        kind: `learned` rows; `sinusoidal` ones, as in fairseq; `interleaved` sines and cosines, as
            in the paper of the Transformer; or `none`, which adds nothing.
        max_len: Number of rows.
        embed_dim: E.
        init_std: Of learned rows.

    Raises:
        ValueError: If there is no such kind, or `embed_dim` is odd where sines pair with cosines.
    """

    rows: Tensor | None

    def __init__(self, kind: Kind, max_len: int, embed_dim: int, *, init_std: float) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"positions must be one of {get_args(Kind)}, got {kind!r}")
        if kind in TABLES and embed_dim % 2:
            raise ValueError(f"{kind} positions need an even embed_dim, got {embed_dim}")
        self.max_len = max_len
        if kind == "learned":
            self.rows = nn.Parameter(torch.empty(max_len, embed_dim))
            nn.init.normal_(self.rows, std=init_std)
        else:
            table = TABLES[kind](max_len, embed_dim) if kind in TABLES else None
            self.register_buffer("rows", table, persistent=False)

    def forward(self, x: Tensor, position: int = 0) -> Tensor:
        """x (B, L, E), whose rows stand at `position` and after, to (B, L, E).

        Raises:
            ValueError: If they reach beyond `max_len`.
        """
        end = position + x.shape[1]
        if end > self.max_len:
            raise ValueError(f"at most {self.max_len} tokens (max_len), got {end}")
        return x if self.rows is None else x + self.rows[position:end]


def sinusoids(length: int, dim: int) -> Tensor:
    """Positions as dim / 2 sines and as many cosines, (length, dim).

    Their wavelengths go from 2 pi to 20,000 pi, as in fairseq, which reaches the longest.
    """
    half = dim // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10_000) / max(half - 1, 1)))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def interleaved(length: int, dim: int) -> Tensor:
    """Positions as dim / 2 sines, each followed by its cosine, (length, dim).

    Their wavelengths begin at 2 pi and stay below 20,000 pi (Vaswani et al. 2017, section 3.5).
    """
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000) / dim))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


TABLES = {"sinusoidal": sinusoids, "interleaved": interleaved}
"""The kinds whose rows are fixed."""
