import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.report.costs import QUANTITIES
from runners.report.efficiency import (
    ALWAYS,
    NEVER,
    Interval,
    bootstrap,
    cab_fit,
    crossing,
    interval_words,
    standard_error,
    words,
)
from runners.report.published import read

LENGTHS = [256, 512, 1024, 2048, 4096, 8192]


def published_costs(attention: str, quantity: str) -> tuple[pd.Series, pd.Series]:
    """CAB's costs of vanilla and of a mechanism over `LENGTHS`, in the same unit."""
    costs = read("efficiency_cost").set_index(["attention", "quantity", "length"])["value"]
    costs = costs.sort_index()
    baseline, own = costs["softmax", quantity], costs[attention, quantity].reindex(LENGTHS)
    # All but ABC's are digitised multiples of vanilla's at 256.
    return (baseline if attention == "abc" else baseline / baseline.iloc[0]), own


@pytest.mark.parametrize(("quantity", "published"), [("running time", 1877), ("peak memory", 70)])
def test_cabs_efficiency_lengths_of_abc(quantity: str, published: int) -> None:
    baseline, own = published_costs("abc", quantity)
    fit = cab_fit(LENGTHS, baseline, own, without_smallest=quantity == "running time")
    assert fit is not None
    assert round(fit.length) == published


def test_the_fit_of_abcs_time_explains_what_the_reference_says() -> None:
    fit = cab_fit(LENGTHS, *published_costs("abc", "running time"), without_smallest=True)
    assert fit is not None
    assert fit.r2_baseline == pytest.approx(0.99948, abs=5e-6)
    assert fit.r2_mechanism == pytest.approx(0.965, abs=5e-4)


REFIT = read("efficiency_length").query("recomputed.notna() and quantity == 'running time'")


@pytest.mark.parametrize(
    ("attention", "recomputed"), list(zip(REFIT["attention"], REFIT["recomputed"], strict=True))
)
def test_cabs_other_efficiency_lengths_from_its_digitised_costs(
    attention: str, recomputed: float
) -> None:
    fit = cab_fit(LENGTHS, *published_costs(attention, "running time"), without_smallest=True)
    assert fit is not None
    assert round(fit.length) == pytest.approx(recomputed, abs=1)


def test_every_recomputed_length_was_looked_at() -> None:
    assert set(REFIT["attention"]) == {
        *("abc", "performer", "nystrom", "longshort", "s4d", "local_window")
    }
    assert set(read("efficiency_length")["quantity"]) == set(QUANTITIES.values())


def test_interpolation_finds_where_abc_really_became_faster() -> None:
    """CAB published 1,877; the measured times cross between 256 and 512 already."""
    baseline, own = published_costs("abc", "running time")
    # By hand: log ratios 0.3169 at 256 and -0.0624 at 512; 256 * 2**(0.3169 / 0.3793) = 457.
    assert crossing(LENGTHS, baseline, own) == pytest.approx(456.8, abs=0.1)


def quadratic(a: float, b: float, c: float) -> np.ndarray:
    x = np.asarray(LENGTHS, dtype=float)
    return a * x**2 + b * x + c


def fitted(baseline: np.ndarray, mechanism: np.ndarray) -> float:
    fit = cab_fit(LENGTHS, baseline, mechanism, without_smallest=False)
    assert fit is not None
    return fit.length


def test_a_known_root() -> None:
    # L^2 - 1000 L = 0 at 0 and 1000.
    assert fitted(quadratic(1, 0, 0), quadratic(0, 1000, 0)) == pytest.approx(1000)


def test_a_line_that_the_parabola_never_meets_is_below_everything() -> None:
    assert fitted(quadratic(1e-6, 0, 10), quadratic(0, 0, 1)) == ALWAYS


def test_a_baseline_that_bends_down_is_never_dearer_in_the_end() -> None:
    assert fitted(quadratic(-1e-6, 100, 0), quadratic(0, 1, 0)) == NEVER


@pytest.mark.parametrize(
    ("baseline", "mechanism", "length"),
    [
        ((0, 2, 0), (0, 1, 1000), 1000),
        ((0, 1, 0), (0, 2, 0), NEVER),
        ((0, 2, 0), (0, 1, 0), ALWAYS),
        ((0, 1, 5), (0, 1, 9), NEVER),
    ],
)
def test_a_baseline_that_is_a_line(baseline: tuple, mechanism: tuple, length: float) -> None:
    """The memory of fused softmax attention is linear: rounding must not make it a parabola."""
    assert fitted(quadratic(*baseline), quadratic(*mechanism)) == pytest.approx(length, abs=1e-3)


def test_a_fit_needs_three_lengths() -> None:
    assert cab_fit([1, 2], [1, 4], [1, 2], without_smallest=False) is None
    assert cab_fit([1, 2, 3], [1, 4, 9], [1, 2, math.nan], without_smallest=True) is None


def test_the_smallest_length_is_left_out_of_the_line_only() -> None:
    own = quadratic(0, 1000, 0)
    own[0] = 1e9
    fit = cab_fit(LENGTHS, quadratic(1, 0, 0), own, without_smallest=True)
    assert fit is not None
    assert fit.length == pytest.approx(1000)


@settings(deadline=None)
@given(st.floats(300, 8000), st.floats(0.6, 3.0))
def test_power_laws_cross_exactly_where_they_do(length: float, exponent: float) -> None:
    x = np.asarray(LENGTHS, dtype=float)
    baseline, own = (x / length) ** (exponent + 0.5), (x / length) ** exponent
    assert crossing(LENGTHS, baseline, own) == pytest.approx(length, rel=1e-9)


def test_never_and_below() -> None:
    assert crossing(LENGTHS, [1.0] * 6, [2.0] * 6) == NEVER
    assert crossing(LENGTHS, [2.0] * 6, [1.0] * 6) == ALWAYS
    assert crossing([256], [1.0], [1.0]) == NEVER


def test_the_last_crossing_counts() -> None:
    # Faster at 512, slower at 1024, faster from 2048 on.
    own = [2.0, 0.5, 2.0, 0.5, 0.5, 0.5]
    assert crossing(LENGTHS, [1.0] * 6, own) == pytest.approx(1024 * math.sqrt(2))
    # Slower again at the greatest length: not faster from any length on.
    assert crossing(LENGTHS, [1.0] * 6, [0.5, 0.5, 0.5, 0.5, 0.5, 2.0]) == NEVER


def interval(own: np.ndarray, baseline: np.ndarray, error: float) -> Interval:
    errors = np.full_like(own, error)
    return bootstrap(LENGTHS, baseline, own, errors, errors)


def test_without_scatter_the_interval_is_the_crossing() -> None:
    own, baseline = quadratic(0, 1000, 0)[None], quadratic(1, 0, 0)[None]
    found = interval(own, baseline, 0.0)
    assert found.low == found.high == pytest.approx(1000)


def test_scatter_widens_the_interval_as_the_slope_says() -> None:
    # log ratio = log 1000 - log L, of slope -1: 5 % on each curve are 5 % * sqrt 2 of the length,
    # less where interpolation averages the errors of two lengths.
    own, baseline = quadratic(0, 1000, 0)[None], quadratic(1, 0, 0)[None]
    found = interval(own, baseline, 0.05)
    half = math.log(found.high / found.low) / 2
    assert 0.5 * 1.96 * 0.05 * math.sqrt(2) < half < 1.1 * 1.96 * 0.05 * math.sqrt(2)
    assert found == interval(own, baseline, 0.05)  # the same on every call


def test_runs_that_disagree_widen_the_interval() -> None:
    own = np.stack([quadratic(0, 700 * factor, 0) for factor in (0.8, 1.0, 1.25)])
    baseline = np.repeat(quadratic(1, 0, 0)[None], 3, axis=0)
    found = interval(own, baseline, 0.0)
    assert found.low == pytest.approx(560)
    assert found.high == pytest.approx(875)


def test_an_interval_can_reach_beyond_what_was_measured() -> None:
    x = np.asarray(LENGTHS, dtype=float)
    found = interval((x**0)[None] * 0.99, (x**0)[None], 0.05)
    assert (found.low, found.high) == (ALWAYS, NEVER)
    assert interval_words(found, 256, 8192) == "[below 256, never]"


def test_the_standard_error_of_a_median_is_that_of_many_experiments() -> None:
    rng = np.random.default_rng(0)
    calls = rng.normal(10.0, 0.5, size=(4000, 101))
    q1, median, q3 = np.quantile(calls, [0.25, 0.5, 0.75], axis=1)
    expected = np.log(median).std()
    found = standard_error(median, q3 - q1, np.full(4000, 101)).mean()
    assert found == pytest.approx(expected, rel=0.05)  # the formula holds for many calls


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (NEVER, "never (to 8,192)"),
        (ALWAYS, "below 256"),
        (70.0, "below 256 (70)"),
        (1877.3, "1,877"),
        (12345.6, "above 8,192 (12,346)"),
    ],
)
def test_lengths_in_words(length: float, text: str) -> None:
    assert words(length, 256, 8192) == text
