"""Generated reviews for runs of seconds: what a reader asks for decides which remark counts.

A review begins with the number of an aspect. Further on it remarks on each aspect once, in any
order and anywhere: with its small letter to praise it, with its capital letter to reject it. The
label is what it says of the aspect asked for. A model that moves nothing between positions knows
the number and which letters there are, and must put them together in its head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MOST_ASPECTS = 10
FILLER = np.frombuffer(b" ", dtype=np.uint8)[0]


@dataclass(frozen=True)
class Settings:
    """What reviews are drawn from.

    Attributes:
        max_len: Bytes of a review.
        num_aspects: How many remarks it has.

    Raises:
        ValueError: If they do not fit into it.
    """

    max_len: int
    num_aspects: int = 6

    def __post_init__(self) -> None:
        if not 1 <= self.num_aspects <= MOST_ASPECTS:
            raise ValueError(
                f"reviews: 1 <= num_aspects <= {MOST_ASPECTS} is not so for {self.num_aspects}"
            )
        if not 1 + self.num_aspects <= self.max_len:
            raise ValueError(
                f"reviews: 1 + num_aspects <= max_len is not so for num_aspects {self.num_aspects} "
                f"and max_len {self.max_len}"
            )


class Reviews(NamedTuple):
    """Rows.

    Attributes:
        texts: ASCII, uint8 (rows, max_len).
        labels: int64 (rows,).
    """

    texts: np.ndarray
    labels: np.ndarray


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Reviews:
    """Draw reviews one independently of the other."""
    rng = np.random.default_rng(seed)
    num_aspects, rows = settings.num_aspects, np.arange(count)
    praises = rng.integers(2, size=(count, num_aspects))
    asked = rng.integers(num_aspects, size=count)
    places = 1 + rng.permuted(np.tile(np.arange(settings.max_len - 1), (count, 1)), axis=1)
    texts = np.full((count, settings.max_len), FILLER)
    letters = np.where(praises == 1, ord("a"), ord("A")) + np.arange(num_aspects)
    texts[rows[:, None], places[:, :num_aspects]] = letters
    texts[:, 0] = ord("0") + asked
    return Reviews(texts, praises[rows, asked])
