import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.records import Measurement, Status
from runners.report.scores import estimates, quality
from runners.report.statistics import bounds_of, estimate, significant, t_quantile
from tests.runners.report.made import rows, train

# Printed in every table of Student's t, two-sided 95 %, to three decimals.
PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 10: 2.228, 29: 2.045, 120: 1.980}


@pytest.mark.parametrize(("degrees", "printed"), PRINTED.items())
def test_the_quantiles_are_those_of_the_printed_tables(degrees: int, printed: float) -> None:
    assert t_quantile(degrees) == pytest.approx(printed, abs=5e-4)  # their rounding


def test_another_confidence() -> None:
    assert t_quantile(5, confidence=0.99) == pytest.approx(4.032, abs=5e-4)


def test_the_interval_holds_the_true_mean_in_95_of_100_experiments() -> None:
    drawn = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 4))
    found = [estimate(row) for row in drawn]
    covered = np.mean([abs(one.mean - 3.0) <= one.half_width for one in found])
    assert covered == pytest.approx(0.95, abs=0.015)  # over 4 deviations of a share of 4000


def test_a_known_interval() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half_width == pytest.approx(4.30265 / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_interval_and_is_marked() -> None:
    found = estimate([0.25])
    assert math.isnan(found.half_width)
    assert str(found) == "0.2500†"


def test_missing_values_are_left_out_and_not_zero() -> None:
    assert estimate([1.0, math.nan, 3.0, math.inf]).mean == 2.0
    assert estimate([1.0, math.nan, 3.0, math.inf]).n == 2
    assert estimate([math.nan]).n == 0
    assert str(estimate([])) == ""


@settings(deadline=None, max_examples=50)
# Rounded: the squares of smaller deviations are below what a float can hold.
@given(
    st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 6)), min_size=3, max_size=9),
    st.floats(0.001, 1000),
)
def test_the_interval_scales_with_the_values(values: list[float], scale: float) -> None:
    one, other = estimate(values), estimate([scale * value for value in values])
    size = scale * max(map(abs, values))  # the mean of large values may cancel to near 0
    assert other.mean == pytest.approx(scale * one.mean, rel=1e-9, abs=1e-9 * size)
    half = scale * (one.half_width if one.low != one.high else 0.0)
    found = other.half_width if other.low != other.high else 0.0
    assert found == pytest.approx(half, rel=1e-6, abs=1e-9 * size)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.25134 - 0.00165, 0.25134, 0.25134 + 0.00165], "0.2513 ± 0.0041"),
        ([34.106, 34.613, 35.120], "34.6 ± 1.3"),
        ([5272.0, 5321.4, 5371.0], "5321 ± 123"),
        ([0.2, 1.0, -0.6], "0.200 ± 1.987"),  # three digits of the mean at least
        ([1.2342e-5, 1.2343e-5, 1.2341e-5], "1.234e-05 ± 2.484e-09"),
        ([186.35], "186.3†"),
        ([0.9995, 0.9995], "0.9995 (2 equal)"),
        ([0.1, 0.1, 0.1], "0.1000 (3 equal)"),
        ([0.2, 0.3], "0.250 (0.200 … 0.300)"),
    ],
)
def test_an_estimate_has_the_digits_that_its_interval_allows(
    values: list[float], text: str
) -> None:
    assert str(estimate(values)) == text


@pytest.mark.parametrize(
    ("metric", "values", "text"),
    [
        ("rouge1", [99.0, 80.0, 99.9], "93.0 [65.0, 100.0]"),
        ("accuracy_4_pairs", [0.0, 0.01, 0.002], "0.00400 [0.00000, 0.01714]"),
        ("nll", [0.2, 0.3, 0.4], "0.300 ± 0.248"),  # inside of the range
        ("something", [0.0, 0.01, 0.002], "0.00400 ± 0.01314"),  # of a range that is not known
    ],
)
def test_an_interval_ends_where_the_metric_does(
    metric: str, values: list[float], text: str
) -> None:
    assert str(estimate(values, bounds_of(metric))) == text


def test_two_seeds_have_their_range_and_no_interval() -> None:
    found = estimate([0.3, 0.2])
    assert math.isnan(found.half_width)
    assert (found.low, found.high) == (0.2, 0.3)


def test_large_values_do_not_overflow() -> None:
    assert estimate([1e308, 1e308, 1e308]).mean == 1e308
    assert estimate([1e308, 1.5e308]).mean == pytest.approx(1.25e308)
    assert str(estimate([1e308])) == "1.000e+308†"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (123456.0, "123456"), (0.5, "0.5000"), (-2.0, "-2.000"), (1e-12, "1.000e-12")],
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_seeds_are_averaged_and_settings_are_not() -> None:
    made = [train("abc", {"accuracy": 0.1 * seed}, seed=seed) for seed in (1, 2, 3)]
    made += [train("abc", {"accuracy": 0.9}, seed=1, model={"lr": 0.1})]
    found = quality(rows(made)).set_index("setting")
    assert found.loc["lr=0.001", "mean"] == pytest.approx(0.2)
    assert found.loc["lr=0.001", "n"] == 3
    assert found.loc["lr=0.1", "values"] == (0.9,)


def test_runs_that_failed_are_counted_beside_those_that_did_not() -> None:
    made = [train("abc", {"accuracy": 0.5}, seed=0)]
    made += [train("abc", seed=seed, status=Status.OOM) for seed in (1, 2)]
    made += [train("abc", seed=3, status=Status.FAILED)]
    found = quality(rows(made))
    assert len(found) == 1
    assert found["n"].item() == 1
    assert found["status"].item() == "ok"
    assert found["failures"].item() == "2 of 4 oom, 1 of 4 failed"


def test_a_cell_without_any_result_has_its_status_in_every_metric() -> None:
    found = quality(
        rows(
            train("softmax", {"mse": 1.0, "mae": 1.0}),
            train("abc", status=Status.UNSUPPORTED, dataset=None, backbone=None),
        )
    )
    cells = found[found["attention"] == "abc"].set_index("metric")
    assert cells["status"].to_dict() == {"mse": "unsupported", "mae": "unsupported"}
    assert cells["mean"].isna().all()


def broken_cell(*values: float, num_diverged: int = 0) -> dict:
    made = [train("abc", {"mse": value}, seed=seed) for seed, value in enumerate(values)]
    made += [train("abc", status=Status.DIVERGED, seed=10 + i) for i in range(num_diverged)]
    found = quality(rows(made, train("softmax", {"mse": 0.5})))
    return found[found["attention"] == "abc"].iloc[0].to_dict()


@pytest.mark.parametrize(
    ("values", "num_diverged", "status"),
    [
        ((0.2, 0.3, math.nan), 0, "not finite (1 of 3)"),
        ((0.2, math.inf), 0, "not finite (1 of 2)"),
        ((0.2, 0.3), 1, "diverged (1 of 3)"),
        ((0.2, math.nan), 1, "not finite (1 of 3), diverged (1 of 3)"),
        ((), 2, "diverged"),
        ((math.nan,), 0, "not finite"),
    ],
)
def test_a_run_that_diverged_is_not_averaged_away(
    values: tuple[float, ...], num_diverged: int, status: str
) -> None:
    found = broken_cell(*values, num_diverged=num_diverged)
    assert found["status"] == status
    assert found["n"] == 0
    assert math.isnan(found["mean"])
    assert found["values"] == ()


def test_the_cost_of_a_training_that_diverged_hides_none_of_the_others() -> None:
    made = [train("abc", extra=[Measurement("step_time", 3.0)], seed=0)]
    made += [train("abc", status=Status.DIVERGED, seed=1)]
    table = rows(made)
    found = estimates(table, table["metric"].eq("step_time"))
    assert (found["mean"].item(), found["failures"].item()) == (3.0, "1 of 2 diverged")


def test_what_was_measured_before_a_later_stage_failed_counts() -> None:
    made = [train("abc", {"nll": 2.0}, seed=0), train("abc", {"nll": 3.0}, seed=1)]
    made[1] = dataclasses.replace(made[1], status=Status.UNSUPPORTED)
    found = quality(rows(made))
    assert (found["mean"].item(), found["n"].item(), found["failures"].item()) == (2.5, 2, "")


def test_a_task_that_nobody_finished_still_has_its_cells() -> None:
    found = quality(rows(train("abc", status=Status.TIMEOUT)))
    assert found[["metric", "status"]].to_numpy().tolist() == [["", "timeout"]]


def test_a_value_that_could_not_be_had_is_told() -> None:
    found = quality(rows(train("abc", {"accuracy": v}, seed=s) for s, v in enumerate((None, 0.5))))
    assert found["failures"].item() == "1 of 2 without a value"
    assert quality(rows(train("abc", {"accuracy": None})))["status"].item() == "no value"


def test_only_final_test_scores_are_quality() -> None:
    others = [
        Measurement("accuracy", 0.1, direction="higher", split="validation", step=10),
        Measurement("accuracy", 0.2, direction="higher", split="test", seq_len=64),
        Measurement("parameters", 100, direction="lower"),
    ]
    table = rows(train("abc", {"accuracy": 0.9}, extra=others))
    assert quality(table)["mean"].tolist() == [0.9]


def test_the_metric_that_selected_the_checkpoint_is_known() -> None:
    found = quality(rows(train("abc", {"mse": 1.0, "mae": 2.0}, monitor="mae")))
    assert dict(zip(found["metric"], found["is_monitored"], strict=True)) == {
        "mse": False,
        "mae": True,
    }
