import math
from typing import Any

import numpy as np
import pytest

from runners.records import Record, Status
from runners.report.benefit import Benefit, benefits, table
from runners.report.figures.benefit import benefit_figures
from runners.report.figures.canvas import Canvas
from runners.report.scores import quality
from runners.report.statistics import estimate
from tests.runners.report.made import rows, train

MLM: dict[str, Any] = {
    "task": "masked_language_modeling",
    "dataset": "PG-19",
    "backbone": "RoBERTa-base",
}
SR: dict[str, Any] = {"task": "super_resolution", "dataset": "FFHQ to CelebA-HQ", "backbone": "SR3"}


def run(attention: str, scores: dict, seed: int = 0, **fields) -> Record:
    place: dict[str, Any] = {"pattern": "noncausal_self", "suite": "cab"} | MLM | fields
    return train(attention, scores, seed=seed, **place)


def found(*records: Record) -> list[Benefit]:
    made = rows(list(records))
    return benefits(made, quality(made))


def test_the_ratio_is_of_scores_of_one_seed_turned_so_that_below_one_is_worse() -> None:
    softmax, none = (10.0, 20.0, 40.0), (20.0, 80.0, 320.0)
    (one,) = found(
        *(run("softmax", {"perplexity": value}, seed) for seed, value in enumerate(softmax)),
        *(run("none", {"perplexity": value}, seed) for seed, value in enumerate(none)),
    )
    logs = [-math.log(b / a) for a, b in zip(softmax, none, strict=True)]
    assert one.logs == pytest.approx(logs)
    assert one.log_ratio == estimate(one.logs)
    assert math.exp(one.log_ratio.mean) == pytest.approx(0.25)


def test_metrics_of_either_direction_count_alike_and_only_where_both_have_them() -> None:
    point: dict[str, Any] = {
        "task": "point_cloud_completion",
        "dataset": "PCN",
        "backbone": "PoinTr",
    }
    directions = {"cd_l1": "lower"}
    (one,) = found(
        run("softmax", {"cd_l1": 2.0, "f_score": 0.8}, directions=directions, **point),
        run("none", {"cd_l1": 4.0, "f_score": 0.2}, directions=directions, **point),
        run("none", {"cd_l1": 9.0, "f_score": 0.1}, 1, directions=directions, **point),
    )
    assert one.logs == pytest.approx([np.mean([math.log(1 / 2), math.log(1 / 4)])])


def test_a_task_without_one_of_both_and_a_diverged_one_are_not_there() -> None:
    assert found(run("softmax", {"perplexity": 10.0}), run("abc", {"perplexity": 20.0})) == []
    broken = run("none", {"perplexity": None}, 1, status=Status.DIVERGED)
    softmax = [run("softmax", {"perplexity": 10.0}, seed) for seed in (0, 1)]
    assert found(*softmax, run("none", {"perplexity": 20.0}), broken) == []


def test_the_indices_need_a_population_and_none_is_no_member_of_it() -> None:
    pair = [run("softmax", {"perplexity": 10.0}), run("none", {"perplexity": 40.0})]
    (alone,) = found(*pair)
    assert math.isnan(alone.softmax)
    (among,) = found(*pair, run("abc", {"perplexity": 30.0}))
    sigma = np.std([10.0, 30.0], ddof=1)
    assert (among.softmax, among.none) == pytest.approx((10 / sigma, -20 / sigma))


def test_cabs_indices_stand_beside_ours_but_for_generated_data() -> None:
    pair = [run(name, {"perplexity": 10.0}) for name in ("softmax", "none")]
    made = [run(name, {"perplexity": 10.0}, dataset="books-synthetic")
            for name in ("softmax", "none")]  # fmt: skip
    real = table(found(*pair))
    assert real is not None
    line = dict(zip(real.header, real.lines[0], strict=True))
    assert (line["CAB|softmax"], line["CAB|without"], line["CAB|Δ"]) == (
        "+0.54",
        "≤ -2.50",
        "≤ -3.04",
    )
    assert "clipped" in real.data["comment"].iloc[0]
    stand_in = table(found(*made))
    assert stand_in is not None
    assert not any("CAB" in name for name in stand_in.header)
    assert stand_in.data["published_softmax"].isna().all()
    assert table([]) is None


@pytest.mark.parametrize(("num_seeds", "text"), [(1, "0.50×†"), (2, "0.50× (0.50× … 0.50×)")])
def test_few_seeds_are_told(num_seeds: int, text: str) -> None:
    records = [
        run(name, {"perplexity": value}, seed)
        for name, value in (("softmax", 8.0), ("none", 16.0))
        for seed in range(num_seeds)
    ]
    made = table(found(*records))
    assert made is not None
    assert made.lines[0][2] == text


def test_the_figure_has_cabs_panel_only_beside_real_data(tmp_path) -> None:
    canvas = Canvas(tmp_path, {})
    assert benefit_figures(canvas, []) == []
    sr = [run(name, {"psnr": 20.0 + i}, **SR) for i, name in enumerate(("softmax", "none"))]
    (plot,) = benefit_figures(canvas, found(*sr))
    assert "CAB" in plot.caption
    stand_in: dict[str, Any] = {**SR, "dataset": "x-synthetic"}
    made = [run(n, {"psnr": 20.0}, **stand_in) for n in ("softmax", "none")]
    (plot,) = benefit_figures(canvas, found(*made))
    assert "CAB" not in plot.caption
