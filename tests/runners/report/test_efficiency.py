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
    cab_fit,
    crossing,
    ends,
    interval,
    interval_words,
    median_limits,
    words,
)
from runners.report.published.cab import read

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
    assert crossing(LENGTHS, own / baseline) == pytest.approx(456.8, abs=0.1)


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
    assert fitted(quadratic(-1.2e-2, 100, 0), quadratic(0, 2, 0)) == NEVER


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


def rounded(costs: np.ndarray, to: float) -> np.ndarray:
    """As an allocator rounds, or a clock: the remainder follows no line."""
    return np.ceil(costs / to) * to


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("mechanism", "length"),
    [((0, 2.1, 100), NEVER), ((0, 2, 100), NEVER), ((0, 1.9, 10), 100), ((0, 1.5, -20), ALWAYS)],
)
def test_rounding_of_a_line_is_no_parabola(mechanism: tuple, length: float, seed: int) -> None:
    """The quadratic's root used to lie at 124,236,560 tokens, or below 256 where it has none."""
    noise = np.random.default_rng(seed).uniform(-1e-3, 1e-3, size=(2, 6))  # 6 % of nothing at 256
    baseline, own = quadratic(0, 2, 0), quadratic(*mechanism)
    for v, e in (
        (rounded(baseline, 0.5), rounded(own, 0.5)),
        (baseline + noise[0], own + noise[1]),
    ):
        assert fitted(v, e) == pytest.approx(length, rel=0.3)


def test_a_bend_of_less_than_a_hundredth_decides_nothing() -> None:
    # Exact, and so significant: its root lies at 101,000 tokens, where nothing was measured.
    assert fitted(quadratic(1e-6, 2, 0), quadratic(0, 2.1, 100)) == NEVER


def test_the_scatter_of_times_is_no_parabola() -> None:
    # A line that costs more at every length, by half at the greatest, and two of one slope.
    scatter = np.random.default_rng(0).normal(1.0, 0.03, size=(200, 2, 6))
    for own in (quadratic(0, 1.5, 200), quadratic(0, 1, 2000)):
        found = [fitted(quadratic(0, 1, 100) * one, own * other) for one, other in scatter]
        assert np.mean(np.isinf(found)) > 0.9  # one time in twenty such a term shows by chance


def test_a_parabola_above_every_line_says_nothing_where_the_mechanism_was_dearer() -> None:
    x = np.asarray(LENGTHS, dtype=float)
    baseline, own = 5e-5 * x**2 + 6000.0, np.where(x < 8000, 1.0, 10_000.0)
    found = cab_fit(LENGTHS, baseline, own, without_smallest=False)
    assert found is not None
    # By the line, a poor one, it costs less at every length; at the greatest it does not.
    assert (np.polyval(np.polyfit(x, own, 1), x) < baseline).all()
    assert own[-1] > baseline[-1]
    assert math.isnan(found.length)


def test_from_a_parabola_that_bends_down_to_the_greatest_length() -> None:
    # Baseline less mechanism is positive from 1000 to 20,000 tokens, or to 5000.
    def between(far: float) -> np.ndarray:
        x = np.asarray(LENGTHS, dtype=float)
        return 1e6 - 1e-3 * (x - 1000) * (x - far)

    assert fitted(between(20_000), quadratic(0, 0, 1e6)) == pytest.approx(1000)
    assert fitted(between(5000), quadratic(0, 0, 1e6)) == NEVER


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
    assert crossing(LENGTHS, own / baseline) == pytest.approx(length, rel=1e-9)


def test_never_and_below() -> None:
    assert crossing(LENGTHS, [2.0] * 6) == NEVER
    assert crossing(LENGTHS, [0.5] * 6) == ALWAYS
    assert crossing([256], [1.0]) == NEVER


def test_the_last_crossing_counts() -> None:
    # Faster at 512, slower at 1024, faster from 2048 on.
    own = [2.0, 0.5, 2.0, 0.5, 0.5, 0.5]
    assert crossing(LENGTHS, own) == pytest.approx(1024 * math.sqrt(2))
    # Slower again at the greatest length: not faster from any length on.
    assert crossing(LENGTHS, [0.5, 0.5, 0.5, 0.5, 0.5, 2.0]) == NEVER


def around(ratios: np.ndarray, error: float) -> Interval:
    """With limits that are this far from the logarithms."""
    return interval(LENGTHS, ratios, ratios * math.exp(-error), ratios * math.exp(error))


FALLING = 1000 / np.asarray(LENGTHS, dtype=float)
"""Of slope -1 in log-log, 1 at 1000 tokens."""


def test_without_scatter_the_interval_is_the_crossing() -> None:
    found = around(FALLING, 0.0)
    assert found.low == pytest.approx(found.high) == pytest.approx(1000)


def test_scatter_widens_the_interval_as_the_slope_says() -> None:
    # At a measured length as far as the limits; halfway between two the errors average out.
    assert around(FALLING * 1.024, 0.1).high == pytest.approx(1024 * math.exp(0.1), rel=0.02)
    halfway = 512 * math.sqrt(2)
    found = around(FALLING * halfway / 1000, 0.1)
    # A little more than 0.1 / sqrt 2: the ends are nearer to a measured length.
    assert math.log(found.high / found.low) / 2 == pytest.approx(0.1 / math.sqrt(2), rel=0.03)


def test_an_interval_can_reach_beyond_what_was_measured() -> None:
    found = around(np.full(6, 0.99), 0.05)
    assert (found.low, found.high) == (ALWAYS, NEVER)
    assert interval_words(found, 256, 8192) == "[below 256, never]"


def test_one_draw_has_no_limits() -> None:
    assert np.isnan(median_limits([3.0])).all()


def test_limits_from_six_draws_on_are_between_two_of_them() -> None:
    low, high = median_limits([1.0, 2.0, 3.0, 4.0, 5.0, 600.0])
    assert 1.0 <= low < 1.5  # the extremes alone would cover 96.9 %
    assert 5.0 < high <= 600.0


DRAWS = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "skewed": lambda rng, size: rng.exponential(size=size) - math.log(2),
    "spiky": lambda rng, size: rng.standard_t(3, size=size),
}
"""Distributions of median 0."""


@pytest.mark.parametrize("kind", list(DRAWS))
@pytest.mark.parametrize("num_draws", [2, 3, 4, 5, 6, 7, 8, 15, 100])
def test_the_limits_cover_the_median_as_often_as_they_say(kind: str, num_draws: int) -> None:
    low, high = median_limits(DRAWS[kind](np.random.default_rng(0), (10_000, num_draws)))
    covered = ((low <= 0) & (high >= 0)).mean()
    assert covered >= 0.93
    if num_draws > 5:  # and are no wider than they must be
        assert covered <= 0.97


@pytest.mark.parametrize("kind", list(DRAWS))
@pytest.mark.parametrize("slope", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("num_draws", [3, 5, 6, 20])
def test_the_interval_of_a_length_covers_it(kind: str, slope: float, num_draws: int) -> None:
    """Turns of one run, or several runs: what scatters is the log ratio at each length."""
    rng = np.random.default_rng(1)
    x, true = np.log(LENGTHS), math.log(1300)
    scatter = 0.1 * DRAWS[kind](rng, (1000, len(LENGTHS), num_draws))
    draws = slope * (true - x)[:, None] + scatter
    low, high = ends(x, np.median(draws, axis=-1), *median_limits(draws))
    assert ((low <= true) & (true <= high)).mean() >= 0.93


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
