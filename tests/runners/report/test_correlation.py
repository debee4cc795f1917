"""CAB's own coefficients are the oracle: those that were recomputed from its leaderboard."""

import math

import numpy as np
import pandas as pd
import pytest

from runners.report.correlation import (
    CAB_PATTERNS,
    PATTERN_TABLE,
    TASK_TABLE,
    bootstrap,
    by_pattern,
    by_task,
    correlations,
    pearson,
    published,
    tables,
)
from runners.report.figures.canvas import Canvas
from runners.report.figures.correlation import correlation_figures
from runners.report.published.cab import TASKS, read
from runners.report.scores import quality
from tests.runners.report.made import rows, train

MECHANISMS = ("softmax", "abc", "performer", "cosformer", "lara", "none")
VALUES = {"noncausal_self": (9, 4, 6, 5, 2, 50), "causal_cross": (1, 7, 3, 4, 9, 60)}


def runs(dataset: str, mechanisms: tuple[str, ...] = MECHANISMS) -> pd.DataFrame:
    return rows(
        train(attention, {"rouge1": float(VALUES[pattern][i])}, pattern=pattern, suite="cab",
              task="summarization", dataset=dataset, backbone="Transformer")
        for pattern in VALUES
        for i, attention in enumerate(mechanisms)
    )  # fmt: skip


def leaderboard(task: str | None) -> pd.DataFrame:
    """CAB's indices as printed, a column for each pattern or task."""
    printed = read("compositional_index")
    printed = printed[printed["attention"].ne("flash_attention")]  # came later
    is_average = printed["task"].eq("average")
    is_task = printed["task"].isin(TASKS.values())
    printed = printed[is_average if task is None else is_task]
    short = printed["pattern"].map(CAB_PATTERNS)
    names = short if task is None else short + " " + printed["task"]
    return printed.assign(name=names).pivot_table(index="attention", columns="name", values="ci")


def test_every_task_coefficient_is_that_of_the_printed_leaderboard() -> None:
    theirs = published(TASK_TABLE)
    found = correlations(leaderboard("every"))
    assert len(found) == 55
    for one in found:
        their = theirs[frozenset((one.one, one.other))]
        assert one.n == their["n_attentions_recomputed"]
        if one.n > 2:
            assert one.r == pytest.approx(float(their["recomputed_r"]), abs=6e-4)
        else:
            assert math.isnan(one.r)
            assert their["marks"] == "ʲ"


def test_the_pattern_coefficients_are_those_that_stand_in_the_row_of_lra() -> None:
    theirs = published(PATTERN_TABLE)
    found = {(one.one, one.other): one for one in correlations(leaderboard(None))}
    for other, n in (("CS", 3), ("NC", 4), ("CC", 3)):
        one = found.get(("NS", other)) or found[other, "NS"]
        printed, exchanged = theirs[frozenset(("NS", other))], theirs[frozenset(("LRA", other))]
        assert one.n == n == printed["n_attentions_recomputed"]
        assert one.r == pytest.approx(float(str(printed["recomputed_r"]).split()[0]), abs=6e-4)
        assert one.r == pytest.approx(exchanged["pearson_r"], abs=0.02)
        assert abs(one.r - printed["pearson_r"]) > 0.1
        assert printed["marks"] == exchanged["marks"] == "ⁱ"
    assert theirs[frozenset(("CS", "NC"))]["marks"] == "ʲ"
    assert theirs[frozenset(("NC", "CC"))]["marks"] == ""


def test_the_coefficient_is_numpys_and_has_none_of_a_constant() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 4, 7))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]
    assert pearson(x, y) == pytest.approx(expected)
    assert math.isnan(pearson([0.1] * 7, x[0]))


def test_the_bootstrap_interval_is_that_of_draws_one_by_one() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 9))
    generator = np.random.default_rng(2)
    draws = (generator.integers(9, size=9) for _ in range(4000))
    slow = [np.corrcoef(x[drawn], y[drawn])[0, 1] for drawn in draws]
    # Two sets of draws: the quantiles of 2,000 scatter by some hundredths.
    assert bootstrap(x, y) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.06)
    assert bootstrap(x, y) == bootstrap(x, y)


def test_below_five_mechanisms_the_table_is_blank_and_prints_n() -> None:
    for count, is_blank in ((4, True), (5, False)):
        table, *_ = tables(quality(runs("Multi-News", MECHANISMS[:count])))
        (line,) = table.lines
        assert (line[:2], line[3]) == (["NS", "CC"], str(count))
        assert (line[2] == "–") == is_blank


def test_none_is_no_mechanism_and_the_sign_of_a_metric_is_turned() -> None:
    (one,) = correlations(by_pattern(quality(runs("Multi-News"))).values)
    pairs = np.array(list(VALUES.values()), dtype=float)[:, :5]
    assert one.n == 5
    assert one.r == pytest.approx(np.corrcoef(pairs)[0, 1])


def test_generated_data_are_beside_no_published_coefficient() -> None:
    real, made = (
        {table.name: table for table in tables(quality(runs(name)))}
        for name in ("Multi-News", "lookups-synthetic")
    )
    assert real[PATTERN_TABLE].lines[0][4:] == ["0.51ⁱ", "0.34 (3)"]
    assert real[TASK_TABLE].lines[0][4] == "-0.45"
    assert any(note.startswith("ⁱ: ") for note in real[PATTERN_TABLE].notes)
    assert "exchanged" in real[PATTERN_TABLE].data["comment"].iloc[0]
    for table in made.values():
        assert list(table.header) == ["", "with", "ours", "n"]
        assert table.data["published"].isna().all()


def test_lra_is_a_column_by_its_mean_accuracy() -> None:
    arena = [
        train(attention, {"accuracy": accuracy}, pattern="noncausal_self", suite="lra",
              task=task, dataset="ListOps", backbone="")
        for task, shift in (("listops", 0.0), ("pathfinder", 0.3))
        for attention, accuracy in zip(MECHANISMS, (0.1 + shift, 0.4, 0.3, 0.35, 0.5, 0.0),
                                       strict=True)
    ]  # fmt: skip
    table = pd.concat([runs("Multi-News"), rows(arena)], ignore_index=True)
    scores = quality(table)
    found = by_pattern(scores)
    assert list(found.values) == ["LRA", "NS", "CC"]
    assert found.values["LRA"][("softmax", "", "")] == pytest.approx(0.25)
    assert list(by_task(scores).values)[:2] == ["LRA ListOps", "LRA Pathfinder"]


def test_the_maps_are_drawn_where_a_coefficient_is(tmp_path) -> None:
    canvas = Canvas(tmp_path, {})
    few = quality(runs("Multi-News", MECHANISMS[:4]))
    assert correlation_figures(canvas, few) == []
    patterns, tasks = correlation_figures(canvas, quality(runs("Multi-News")))
    assert "ⁱ: the labels NS and LRA are exchanged" in patterns.caption
    assert (tmp_path / f"{patterns.name}.png").stat().st_size > 2000
    assert tasks.name == TASK_TABLE
