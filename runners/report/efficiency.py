"""From which length on a mechanism costs less than softmax: CAB's fit, and interpolation.

Source of the fit: Zhang et al., CAB, ICML 2023, arXiv:2210.07661, and its repository. A quadratic
through the baseline's cost and a line through the mechanism's, both by least squares; for time
without the mechanism's smallest length; the efficiency length is the larger root of their
difference. It can lie far outside of what was measured, and then this module says so.

A length is a float: 0 for "below the smallest length", infinity for "never".
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runners.report.statistics import t_quantile

Numbers = NDArray[np.float64]

ALWAYS, NEVER = 0.0, math.inf
CONFIDENCE = 0.95
MEDIAN_ERROR = {2: 0.7071, 3: 0.6698, 4: 0.5460, 5: 0.5356}
"""Standard error of the median of so few normal values, in their standard deviations."""
STEPS = 64
"""Places between two measured lengths at which an interval may end."""
NEGLIGIBLE = 0.01
"""The share of the greatest cost below which a term of a fit decides nothing."""


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

    A root is a quotient of terms, and where these are noise so is the root, wherever it lies. So
    the term in L^2 decides only where it is significant and its part of the greatest cost is not
    `NEGLIGIBLE`, else the baseline is a line; two lines are parallel by the same rule.

    Args:
        lengths: In tokens, ascending.
        baseline: Its cost at each length, NaN where it has none.
        mechanism: Its cost at each length, NaN where it has none.
        without_smallest: Leave the smallest length out of the line, as CAB does for time.
    """
    x, v, e = (np.asarray(values, dtype=float) for values in (lengths, baseline, mechanism))
    of_v, of_e = np.isfinite(v), np.isfinite(e)
    is_cheaper = bool(((v - e)[of_v & of_e][-1:] > 0.0).any())
    if without_smallest:
        of_e[:1] = False
    if of_v.sum() < 3 or of_e.sum() < 2:
        return None
    x_v, x_e, v, e, longest = x[of_v], x[of_e], v[of_v], e[of_e], float(x[-1])
    least = NEGLIGIBLE * float(max(v.max(), e.max()))
    quadratic, line = np.polyfit(x_v, v, 2), np.polyfit(x_e, e, 1)
    if not _shows(quadratic[0] * longest**2, *_highest(x_v, v, 2), len(v) - 3, least):
        quadratic = np.append(0.0, np.polyfit(x_v, v, 1))
    a, b, c = quadratic - np.append(0.0, line)
    if a == 0.0:
        slopes, errors = zip(_highest(x_v, v, 1), _highest(x_e, e, 1), strict=True)
        degrees = len(v) + len(e) - 4
        if not _shows(b * longest, slopes[0] - slopes[1], math.hypot(*errors), degrees, least):
            b, c = 0.0, b * longest + c  # parallel, as far apart as at the greatest length
            c = c if abs(c) >= least else 0.0
    return Fit(
        length=_turn(float(a), float(b), float(c), longest, is_cheaper=is_cheaper),
        r2_baseline=_r2(v, np.polyval(quadratic, x_v)),
        r2_mechanism=_r2(e, np.polyval(line, x_e)),
    )


def _highest(x: Numbers, y: Numbers, degree: int) -> tuple[float, float]:
    """The term of this degree, and its standard error, in the fit of the least relative errors.

    Costs scatter by a share of themselves, so that only there errors are of one size, as Student's
    t supposes. Of the term as CAB fits it, by absolute errors, one could not be told.
    """
    parts = np.vander(x / x[-1], degree + 1) / y[:, None]
    terms, *_ = np.linalg.lstsq(parts, np.ones_like(y))
    degrees = len(y) - degree - 1
    variance = np.sum((1.0 - parts @ terms) ** 2) / degrees if degrees else 0.0
    error = math.sqrt(variance * np.linalg.inv(parts.T @ parts)[0, 0])
    return float(terms[0]), error


def _shows(part: float, term: float, error: float, degrees: int, least: float) -> bool:
    """Whether a term of a fit is more than noise, and its part of the greatest cost than nothing.

    Where no degree of freedom is left nothing tells the noise, and its size alone decides.
    """
    is_significant = degrees < 1 or abs(term) > t_quantile(degrees) * error
    return is_significant and abs(part) >= least


def _turn(a: float, b: float, c: float, longest: float, *, is_cheaper: bool) -> float:
    """Where a L^2 + b L + c, baseline less mechanism, turns positive for the last time.

    Args:
        longest: The greatest length that was measured: a parabola that bends down is asked there.
        is_cheaper: Whether the mechanism was measured to cost less there.

    Returns:
        The length; NaN where no length is a root, and the measured costs contradict the fit.
    """
    if a == 0.0 and b == 0.0:
        return ALWAYS if c > 0.0 else NEVER
    if a == 0.0:
        root = -c / b if b > 0.0 else NEVER
    else:
        discriminant = b**2 - 4.0 * a * c
        if discriminant < 0.0:
            return NEVER if a < 0.0 else ALWAYS if is_cheaper else math.nan
        if a < 0.0 and (a * longest + b) * longest + c <= 0.0:
            return NEVER
        root = (-b + math.sqrt(discriminant)) / (2.0 * a)
    return root if root >= 1.0 else ALWAYS


def _r2(measured: np.ndarray, fitted: np.ndarray) -> float:
    total = np.sum((measured - measured.mean()) ** 2)
    return float(1 - np.sum((measured - fitted) ** 2) / total) if total > 0 else math.nan


def crossing(lengths: ArrayLike, ratios: ArrayLike) -> float:
    """The length from which on the mechanism costs less, up to the greatest that was measured.

    Between two measured lengths the logarithm of the ratio is taken as linear in the logarithm of
    the length.

    Args:
        lengths: In tokens, ascending.
        ratios: The mechanism's cost over the baseline's at each length.
    """
    x = np.log(np.asarray(lengths, dtype=float))
    return float(np.exp(_last_descent(x, np.log(np.asarray(ratios, dtype=float)))))


def _last_descent(x: Numbers, ratios: Numbers) -> Numbers:
    """The x of the last fall of log ratios (..., lengths) below 0; ±infinity where none is."""
    costs_more = ratios >= 0
    last = len(x) - 1 - np.argmax(costs_more[..., ::-1], axis=-1)
    before, after = last, np.minimum(last + 1, len(x) - 1)
    high = np.take_along_axis(ratios, before[..., None], axis=-1)[..., 0]
    low = np.take_along_axis(ratios, after[..., None], axis=-1)[..., 0]
    fall = np.where(high > low, high - low, 1.0)  # 1: where there is no fall, for the division
    found = x[before] + (x[after] - x[before]) * high / fall
    found = np.where(last == len(x) - 1, math.inf, found)
    return np.where(costs_more.any(axis=-1), found, -math.inf)


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a length; either end may be 0 or infinity."""

    low: float
    high: float


def interval(lengths: ArrayLike, ratios: ArrayLike, low: ArrayLike, high: ArrayLike) -> Interval:
    """The interval of `crossing`: the lengths at which the limits of the ratio cross 1.

    Args:
        lengths: In tokens, ascending.
        ratios: The mechanism's cost over the baseline's at each length.
        low: The lower end of the 95 % interval of each ratio.
        high: The upper end of each.
    """
    x = np.log(np.asarray(lengths, dtype=float))
    logs = (np.log(np.asarray(of, dtype=float)) for of in (ratios, low, high))
    found = np.exp(ends(x, *logs))
    return Interval(float(found[0]), float(found[1]))


def ends(x: Numbers, ratios: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """(2, ...): the x at which the limits of log ratios (..., lengths) fall below 0.

    A length is in the interval exactly where that of its ratio has 0, so that it covers as often.
    An interpolated ratio is a sum of two independent ones, whose limits add up by their squares:
    Zou and Donner, Statistics in Medicine 27, 2008.
    """
    fine = np.interp(np.linspace(0, len(x) - 1, STEPS * (len(x) - 1) + 1), np.arange(len(x)), x)
    shares = np.stack([np.interp(fine, x, row) for row in np.eye(len(x))])  # (lengths, places)
    between = ratios @ shares
    # Estimate and limits may rest on other numbers of calls; it lies between them all the same.
    down, up = (np.maximum(of, 0.0) ** 2 @ shares**2 for of in (ratios - low, high - ratios))
    return np.stack(
        [_last_descent(fine, between - down**0.5), _last_descent(fine, between + up**0.5)]
    )


def median_limits(values: ArrayLike) -> tuple[Numbers, Numbers]:
    """The 95 % interval of the median of a distribution from n draws (..., n); NaN if n is 1.

    From six draws on between two of them, whatever the distribution: the k-th and the k-th last
    have the median between them as often as a fair coin falls heads k to n - k times, and two such
    intervals are joined by the weights of Hettmansperger and Sheather, Statistics & Probability
    Letters 4, 1986. Below, where even the extremes miss it too often, median ± t s m, with m the
    standard error of a median of n normal draws and t of n - 1 degrees of freedom.
    """
    draws = np.sort(np.asarray(values, dtype=float), axis=-1)
    n = draws.shape[-1]
    if n == 1:
        return np.full(draws.shape[:-1], math.nan), np.full(draws.shape[:-1], math.nan)
    if n in MEDIAN_ERROR:
        middle = np.median(draws, axis=-1)
        half = t_quantile(n - 1) * MEDIAN_ERROR[n] * draws.std(axis=-1, ddof=1)
        return middle - half, middle + half
    k, share = _order(n)
    low = share * draws[..., k] + (1.0 - share) * draws[..., k - 1]
    high = share * draws[..., n - 1 - k] + (1.0 - share) * draws[..., n - k]
    return low, high


@functools.cache
def _order(n: int) -> tuple[int, float]:
    """The k whose interval, from the k-th to the k-th last, is the narrowest that covers enough.

    Returns:
        k from 1, and how far the ends go towards their inner neighbours.
    """
    tails = np.cumsum([math.comb(n, i) / 2**n for i in range(n // 2 + 1)])
    k = max(i for i in range(1, n // 2 + 1) if 1.0 - 2.0 * tails[i - 1] >= CONFIDENCE)
    wide, narrow = 1.0 - 2.0 * tails[k - 1], 1.0 - 2.0 * tails[k]
    part = (wide - CONFIDENCE) / (wide - narrow)
    return k, (n - k) * part / (k + (n - 2 * k) * part)


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
