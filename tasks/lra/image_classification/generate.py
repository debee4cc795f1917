"""Generated pictures for runs of seconds: which way do the bars lie?

A few bright bars of the same length lie on a dark ground, all of a picture in one of four
directions and each anywhere. Which pixels are bright says next to nothing; which are bright beside
one another says it all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""(down, right) from one pixel of a bar to the next, by label."""
NUM_CLASSES = len(DIRECTIONS)
DARK, BRIGHT, NUM_SHADES, SHADE = 16, 176, 4, 16
"""The darkest value of ground and of bars, how many values there are of each, and their steps."""


@dataclass(frozen=True)
class Settings:
    """What pictures are drawn from.

    Attributes:
        side: Pixels of a row, and rows.
        num_bars: In a picture; they may cross.
        bar_len: Their pixels.

    Raises:
        ValueError: If a bar does not fit in, or is but a dot.
    """

    side: int
    num_bars: int = 3
    bar_len: int = 4

    def __post_init__(self) -> None:
        if self.num_bars < 1:
            raise ValueError(f"shapes: num_bars must be at least 1, got {self.num_bars}")
        if not 2 <= self.bar_len <= self.side:
            raise ValueError(
                f"shapes: 2 <= bar_len <= side is not so for bar_len {self.bar_len} and side "
                f"{self.side}"
            )


class Pictures(NamedTuple):
    """Rows.

    Attributes:
        pixels: Grey values row by row, uint8 (rows, side * side).
        labels: Which of `DIRECTIONS`, int64 (rows,).
    """

    pixels: np.ndarray
    labels: np.ndarray


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Pictures:
    """Draw pictures one independently of the other."""
    rng = np.random.default_rng(seed)
    side, num_bars, bar_len = settings.side, settings.num_bars, settings.bar_len
    labels = rng.integers(NUM_CLASSES, size=count)
    shades = SHADE * rng.integers(NUM_SHADES, size=(2, count, side * side))
    pixels = DARK + shades[0]
    down, right = np.array(DIRECTIONS)[labels].T[:, :, None]
    # Where the first pixel may be, so that the last one is inside too.
    rows = rng.integers(side - (bar_len - 1) * down, size=(count, num_bars))
    columns = rng.integers(side - (bar_len - 1) * abs(right), size=(count, num_bars))
    columns += (bar_len - 1) * (right < 0)
    for step in range(bar_len):
        places = (rows + step * down) * side + columns + step * right
        bright = BRIGHT + np.take_along_axis(shades[1], places, axis=1)
        np.put_along_axis(pixels, places, bright, axis=1)
    return Pictures(pixels.astype(np.uint8), labels)
