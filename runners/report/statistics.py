"""Repeated runs to one number with its uncertainty."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

CONFIDENCE = 0.95
ONE_SEED = "†"
"""Marks a number that rests on one run and so has no interval."""
EQUAL = "equal"
"""Marks seeds that all gave the same value, which says nothing of how far others would lie."""
RANGE = "…"
"""Between the values of two seeds."""
LARGE = 1e15
"""Not to be read with all its digits."""
RANGES = {
    "accuracy": (0.0, 1.0),
    "macro_accuracy": (0.0, 1.0),
    "rouge1": (0.0, 100.0),
    "rouge2": (0.0, 100.0),
    "rougeLsum": (0.0, 100.0),
    "f_score": (0.0, 1.0),
    "ssim": (-1.0, 1.0),
    "perplexity": (1.0, math.inf),
    "validation_perplexity": (1.0, math.inf),
    **dict.fromkeys(
        ("nll", "bits_per_byte", "mse", "mae", "mcd", "msd", "cd_l1", "cd_l2"), (0.0, math.inf)
    ),
    **dict.fromkeys(("step_time", "peak_memory", "parameters"), (0.0, math.inf)),
}
"""What a metric can be, where it is bounded; `accuracy_4_pairs` is an accuracy."""


@dataclass(frozen=True)
class Estimate:
    """A mean over independent runs, and how far others may lie.

    Attributes:
        mean: NaN where no run gave a value.
        half_width: Half of the 95 % interval; NaN below three values, or where all are equal.
        low: The lower end of the interval, cut at the metric's range; of two values the smaller.
        high: The upper end; NaN, as `low`, for a single value.
        n: The number of values.
    """

    mean: float
    half_width: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 0:
            return ""
        if math.isnan(self.low):
            return f"{significant(self.mean)}{ONE_SEED if self.n == 1 else ''}"
        if self.low == self.high:
            return f"{significant(self.mean)} ({self.n} {EQUAL})"
        mean, half, low, high = map(
            self._rounded, (self.mean, self.half_width, self.low, self.high)
        )
        if self.n == 2:
            return f"{mean} ({low} {RANGE} {high})"
        return f"{mean} [{low}, {high}]" if self.is_cut else f"{mean} ± {half}"

    @property
    def is_cut(self) -> bool:
        """Whether the interval by Student's t reaches beyond what the metric can be."""
        return self.low > self.mean - self.half_width or self.high < self.mean + self.half_width

    @property
    def decimals(self) -> int:
        """Two digits of the interval, and at least three of the mean."""
        spread = (self.high - self.low) / 2
        if self.n < 2 or not 0 < spread < math.inf:
            return decimals_of(self.mean, 4)
        return max(decimals_of(spread, 2), decimals_of(self.mean, 3))

    def reads_as(self, other: "Estimate") -> bool:
        """Whether the two means are the same to the digits that both show."""
        if 0 in (self.mean, other.mean):
            return self.mean == other.mean
        decimals = min(self.decimals, other.decimals)
        return f"{self.mean:.{decimals}f}" == f"{other.mean:.{decimals}f}"

    def _rounded(self, value: float) -> str:
        is_plain = self.decimals <= 6 and abs(value) < LARGE
        return f"{value:.{self.decimals}f}" if is_plain else f"{value:.3e}"


def estimate(
    values: Iterable[float], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """The mean of independent values and its 95 % interval by Student's t.

    The interval is mean ± t s / sqrt n, with s the sample standard deviation (n - 1) and t the
    quantile of n - 1 degrees of freedom. With two values t is 12.7, which says next to nothing:
    they have their range instead. Values that are not finite are left out, and show in `n`.

    Args:
        values: One for each run.
        bounds: The least and the greatest that a value can be.
    """
    kept = [value for value in values if math.isfinite(value)]
    n = len(kept)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0)
    least, greatest = min(kept), max(kept)
    if n == 1:
        return Estimate(least, math.nan, math.nan, math.nan, 1)
    if least == greatest:  # the mean of equal values may differ from them in the last bit
        return Estimate(least, math.nan, least, least, n)
    # As parts of the greatest, because sums and squares of large values overflow.
    scale = max(abs(least), abs(greatest))
    parts = [value / scale for value in kept]
    share = math.fsum(parts) / n
    mean = scale * share
    if n == 2:
        return Estimate(mean, math.nan, least, greatest, n)
    deviation = math.sqrt(math.fsum((part - share) ** 2 for part in parts) / (n - 1))
    half = scale * (t_quantile(n - 1) * deviation / math.sqrt(n))
    return Estimate(mean, half, max(mean - half, bounds[0]), min(mean + half, bounds[1]), n)


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t within which a Student variable lies with this probability, on both sides of 0.

    Source: the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4, solved by bisection. It
    stands here because the one library that has it, SciPy, is no dependency otherwise.
    """
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(degrees)), which is bounded
    while high - low > 1e-15:
        middle = (low + high) / 2
        low, high = (middle, high) if _probability(middle, degrees) < confidence else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _probability(angle: float, degrees: int) -> float:
    """P(|t| < sqrt(degrees) tan(angle))."""
    sin, cos = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2 == 1
    term = cos if is_odd else 1.0
    total = 0.0
    for i in range(1 if is_odd else 0, degrees - 1, 2):
        total += term
        term *= cos**2 * (i + 1) / (i + 2)
    return 2 / math.pi * (angle + sin * total) if is_odd else sin * total


def notes_of(text: str) -> list[str]:
    """What the estimates in a text must be read with."""
    notes = {
        "±": "±: half of the 95 % interval over three seeds or more (Student's t).",
        r"\d \[-?\d": "[ ]: the same interval, cut where the metric cannot be beyond.",
        f" {RANGE} ": f"( {RANGE} ): the values of two seeds, too few for an interval.",
        rf"\d {EQUAL}\)": f"{EQUAL}: so many seeds with the same value, which tell no interval.",
        ONE_SEED: f"{ONE_SEED}: one seed, so no interval.",
    }
    return [note for pattern, note in notes.items() if re.search(pattern, text)]


def bounds_of(metric: str) -> tuple[float, float]:
    """The least and the greatest that a metric can be, as far as is known."""
    found = [name for name in RANGES if metric == name or metric.startswith(f"{name}_")]
    return RANGES[found[0]] if found else (-math.inf, math.inf)


def decimals_of(value: float, digits: int) -> int:
    """How many decimals show this many significant digits, and every digit before the point."""
    if value == 0 or not math.isfinite(value):
        return 0
    return max(digits - 1 - math.floor(math.log10(abs(value))), 0)


def significant(value: float, digits: int = 4) -> str:
    """A number with this many significant digits, and every digit before the point."""
    if not math.isfinite(value):
        return str(value)
    decimals = decimals_of(value, digits)
    is_plain = decimals < 10 and abs(value) < LARGE
    return f"{value:.{decimals}f}" if is_plain else f"{value:.{digits - 1}e}"
