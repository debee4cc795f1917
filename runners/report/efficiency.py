"""From which length on a mechanism costs less than softmax: CAB's fit, and interpolation.

Source of the fit: Zhang et al., CAB, ICML 2023, arXiv:2210.07661, and its repository. A quadratic
through the baseline's cost and a line through the mechanism's, both by least squares; for time
without the mechanism's smallest length; the efficiency length is the larger root of their
difference. It can lie far outside of what was measured, and then this module says so.

A length is a float: 0 for "below the smallest length", infinity for "never".
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Costs = NDArray[np.float64]
"""Costs by run and length, (runs, lengths)."""

ALWAYS, NEVER = 0.0, math.inf
NUM_RESAMPLES = 1000
IQR_PER_SIGMA = 1.349
"""Of a normal distribution."""
MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""Standard error of a median of n normal values, in sigma / sqrt n."""


@dataclass(frozen=True)
class Fit:
    """CAB's fit.

    Attributes:
        length: The efficiency length.
        r2_baseline: Share of the variance that the quadratic explains.
        r2_mechanism: Share of the variance that the line explains.
    """

    length: float
    r2_baseline: float
    r2_mechanism: float


def cab_fit(
    lengths: ArrayLike,
    baseline: ArrayLike,
    mechanism: ArrayLike,
    *,
    without_smallest: bool,
) -> Fit | None:
    """Fit as CAB does; None if the lengths are too few for a quadratic and a line.

    Args:
        lengths: In tokens, ascending.
        baseline: Its cost at each length, NaN where it has none.
        mechanism: Its cost at each length, NaN where it has none.
        without_smallest: Leave the smallest length out of the line, as CAB does for time.
    """
    x, v, e = (np.asarray(values, dtype=float) for values in (lengths, baseline, mechanism))
    of_v, of_e = np.isfinite(v), np.isfinite(e)
    if without_smallest:
        of_e[:1] = False
    if of_v.sum() < 3 or of_e.sum() < 2:
        return None
    a, b, c = np.polyfit(x[of_v], v[of_v], 2)
    d, f = np.polyfit(x[of_e], e[of_e], 1)
    return Fit(
        length=_larger_root(a, b - d, c - f, x[-1], 1e-9 * np.nanmax([v, e])),
        r2_baseline=_r2(v[of_v], np.polyval([a, b, c], x[of_v])),
        r2_mechanism=_r2(e[of_e], np.polyval([d, f], x[of_e])),
    )


def _larger_root(a: float, b: float, c: float, longest: float, rounding: float) -> float:
    """Where a L^2 + b L + c, baseline less mechanism, last turns positive.

    Terms that stay within `rounding` up to the longest length are rounding errors of the fit.
    """
    if abs(a) * longest**2 < rounding:  # a baseline that is a line
        if abs(b) * longest < rounding:
            return ALWAYS if c > rounding else NEVER
        return NEVER if b < 0 else float(max(-c / b, ALWAYS))
    if a < 0:
        return NEVER
    discriminant = b**2 - 4 * a * c
    if discriminant < 0:
        return ALWAYS
    return float(max((-b + math.sqrt(discriminant)) / (2 * a), ALWAYS))


def _r2(measured: np.ndarray, fitted: np.ndarray) -> float:
    total = np.sum((measured - measured.mean()) ** 2)
    return float(1 - np.sum((measured - fitted) ** 2) / total) if total > 0 else math.nan


def crossing(lengths: ArrayLike, baseline: ArrayLike, mechanism: ArrayLike) -> float:
    """The length from which on the mechanism costs less, up to the greatest that was measured.

    Between two measured lengths the logarithm of the ratio of costs is taken as linear in the
    logarithm of the length.
    """
    x = np.log(np.asarray(lengths, dtype=float))
    ratio = np.log(np.asarray(mechanism, dtype=float) / np.asarray(baseline, dtype=float))
    return float(np.exp(_last_descent(x, ratio[None])[0]))


def _last_descent(x: Costs, ratios: Costs) -> Costs:
    """For each row of log ratios (rows, lengths), the x of its last fall below 0; ±infinity."""
    costs_more = ratios >= 0
    last = len(x) - 1 - np.argmax(costs_more[:, ::-1], axis=1)
    before, after = last, np.minimum(last + 1, len(x) - 1)
    high = np.take_along_axis(ratios, before[:, None], axis=1)[:, 0]
    low = np.take_along_axis(ratios, after[:, None], axis=1)[:, 0]
    fall = np.where(high > low, high - low, 1.0)  # 1: where there is no fall, for the division
    found = x[before] + (x[after] - x[before]) * high / fall
    found = np.where(last == len(x) - 1, math.inf, found)
    return np.where(costs_more.any(axis=1), found, -math.inf)


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a length; either end may be 0 or infinity."""

    low: float
    high: float


def bootstrap(
    lengths: ArrayLike,
    baseline: Costs,
    mechanism: Costs,
    baseline_error: Costs,
    mechanism_error: Costs,
) -> Interval:
    """The interval of `crossing` over 1000 resamples, the same on every machine.

    Runs are drawn with replacement, mechanism and baseline of a run together, since they were
    measured in turns; each cost is then moved by its own standard error. The median over the
    drawn runs, in logarithms, stands for the resample.

    Args:
        lengths: In tokens, ascending.
        baseline: Its costs (runs, lengths).
        mechanism: Its costs (runs, lengths).
        baseline_error: Standard errors (runs, lengths) of the logarithm; 0 if there are none.
        mechanism_error: Likewise.
    """
    rng = np.random.default_rng(0)
    runs = rng.integers(len(baseline), size=(NUM_RESAMPLES, len(baseline)))
    logs = []
    for costs, errors in ((baseline, baseline_error), (mechanism, mechanism_error)):
        drawn = np.log(costs)[runs]  # (resamples, runs, lengths)
        logs.append(np.median(drawn + errors[runs] * rng.standard_normal(drawn.shape), axis=1))
    found = _last_descent(np.log(np.asarray(lengths, dtype=float)), logs[1] - logs[0])
    # Order statistics: between a number and infinity nothing can be interpolated.
    low, high = np.quantile(found, [0.025, 0.975], method="nearest")
    return Interval(float(np.exp(low)), float(np.exp(high)))


def standard_error(median: np.ndarray, iqr: np.ndarray, num_calls: np.ndarray) -> np.ndarray:
    """The standard error of the logarithm of a median of calls, from their interquartile range."""
    sigma = iqr / IQR_PER_SIGMA
    return MEDIAN_ERROR * sigma / np.sqrt(num_calls) / median


def words(length: float, smallest: float, greatest: float) -> str:
    """An efficiency length for a reader, who must see where it was not measured.

    `never (to 8,192)`, `below 256`; in brackets what a fit extrapolates: `below 256 (70)`.
    """
    if length == NEVER:
        return f"never (to {greatest:,.0f})"
    if length == ALWAYS:
        return f"below {smallest:,.0f}"
    if length < smallest:
        return f"below {smallest:,.0f} ({length:,.0f})"
    if length > greatest:
        return f"above {greatest:,.0f} ({length:,.0f})"
    return f"{length:,.0f}"


def interval_words(interval: Interval, smallest: float, greatest: float) -> str:
    """`[470, 1,240]`; an end that was not measured is `below 256` or `never`."""
    ends = [
        "never" if end == NEVER else words(end, smallest, greatest)
        for end in (interval.low, interval.high)
    ]
    return f"[{ends[0]}, {ends[1]}]"
