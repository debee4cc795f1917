"""Points of a function that is linear, or linear in pieces; each row has a function of its own.

Sources: Garg et al., "What Can Transformers Learn In-Context?", NeurIPS 2022, arXiv:2208.01066, and
its code (dtsip/in-context-learning, commit 3383371): x ~ N(0, I), w ~ N(0, I), y = w . x. Pieces:
Zuo et al., "Local Linear Attention", 2025, arXiv:2510.01450, which fits functions of keys that are
smooth in pieces, and ones that change in time. Its code is not released and its sizes are not
followed; that a piece is the set of keys nearest to one of several centres is ours.

Every number is a multiple of 1/1024, of which sums and products are exact: rows are the same on any
machine, and so is which centre is the nearest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

GRID = 1024.0


@dataclass(frozen=True)
class Settings:
    """Of one kind of row.

    Attributes:
        num_points: K.
        dim: d, of x.
        num_outputs: m, of y.
        num_pieces: S.
        pieces: What decides the piece: the "key" x, or "time", S equal parts of the points.

    Raises:
        ValueError: If a size is not positive, or there are more pieces than points.
    """

    num_points: int
    dim: int
    num_outputs: int = 1
    num_pieces: int = 1
    pieces: Literal["key", "time"] = "key"

    def __post_init__(self) -> None:
        sizes = (self.num_points, self.dim, self.num_outputs, self.num_pieces)
        if min(sizes) < 1:
            raise ValueError(
                "regression: num_points, dim, num_outputs, num_pieces >= 1 fails: "
                + ", ".join(map(str, sizes))
            )
        if self.num_pieces > self.num_points:
            raise ValueError(
                f"regression: num_pieces <= num_points fails: {self.num_pieces} > {self.num_points}"
            )
        if self.pieces not in ("key", "time"):
            raise ValueError(f"regression: pieces must be 'key' or 'time', got {self.pieces!r}")


class Points(NamedTuple):
    """Rows.

    Attributes:
        x: float32 (rows, K, d).
        y: float32 (rows, K, m), x times the weights of its piece; variance d.
        piece: Which piece a point is of, int32 (rows, K).
        weights: float32 (rows, S, d, m).
    """

    x: np.ndarray
    y: np.ndarray
    piece: np.ndarray
    weights: np.ndarray


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Points:
    """Draw `count` rows."""
    rng = np.random.default_rng(seed)
    points, dim, pieces = settings.num_points, settings.dim, settings.num_pieces

    def normal(*shape: int) -> np.ndarray:
        return np.rint(rng.standard_normal(shape) * GRID) / GRID

    x = normal(count, points, dim)
    weights = normal(count, pieces, dim, settings.num_outputs)
    if settings.pieces == "time":
        piece = np.tile(np.arange(points) * pieces // points, (count, 1))
    elif pieces == 1:
        piece = np.zeros((count, points), np.int64)
    else:
        centres = normal(count, pieces, dim)
        piece = np.square(x[:, :, None] - centres[:, None]).sum(axis=3).argmin(axis=2)
    y = np.zeros((count, points, settings.num_outputs))
    for each in range(pieces):
        y += (x @ weights[:, each]) * (piece == each)[..., None]
    return Points(
        x.astype(np.float32),
        y.astype(np.float32),
        piece.astype(np.int32),
        weights.astype(np.float32),
    )
