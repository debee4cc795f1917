from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from runners.records import Measurement, Record, Status
from runners.report.figures.canvas import Canvas, Plot
from runners.report.figures.lengths import length_figures
from runners.report.figures.patterns import pattern_figures
from runners.report.figures.state import state_figures
from runners.report.figures.width import width_figures
from runners.report.plots import Plotter
from runners.report.scores import quality
from tests.runners.report.made import rows, train
from tests.runners.report.test_plots import assert_nothing_sticks_out, texts

RULES = {"any value": {"accuracy": 0.1}}
MAKERS = (pattern_figures, width_figures, state_figures, length_figures)


def drawn(table: pd.DataFrame, folder: Path, makers: Iterable = MAKERS) -> list[Plot]:
    canvas = Canvas(folder, Plotter(folder, table).styles)
    return [plot for make in makers for plot in make(canvas, table, quality(table))]


def groups(values: dict[str, float]) -> list[Measurement]:
    return [
        Measurement(f"accuracy_{name}", value, "", "higher", "test", seq_len=64)
        for name, value in values.items()
    ]


def state(elements: float) -> Measurement:
    return Measurement("state_elements", elements, "elements", "lower", seq_len=64)


def cross(attention: str, pattern: str, value: float, seed: int = 0) -> Record:
    by_pairs = groups({"4_pairs": value, "8_pairs": value / 2})
    return train(attention, {"accuracy": value}, pattern=pattern, seed=seed, task="cross_recall",
                 data={"pattern": pattern}, extra=by_pairs, rules=RULES)  # fmt: skip


def test_one_figure_has_the_recall_in_every_pattern(
    saved: dict[str, Figure], tmp_path: Path
) -> None:
    patterns = ("causal_self", "noncausal_cross", "causal_cross")
    made = [cross("softmax", pattern, 0.9, seed) for pattern in patterns for seed in (0, 1)]
    made += [cross("abc", "causal_self", 0.6, seed) for seed in (0, 1)]
    made += [cross("abc", "causal_cross", 0.4)]
    made += [train("abc", pattern="noncausal_cross", task="cross_recall", status=Status.UNSUPPORTED,
                   data={"pattern": "noncausal_cross"})]  # fmt: skip
    plots = drawn(rows(made), tmp_path)
    assert [plot.name.split("_")[0] for plot in plots] == ["patterns", "pairs"]
    figure = saved[plots[0].name]
    told = texts(figure)
    for text in ("0.900", "0.600", "0.400 (1)", "0.100", "softmax", "rule: any value",
                 "noncausal\ncross"):  # fmt: skip
        assert text in told
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        *("softmax", "abc", "rule: any value")
    ]
    assert [patch.get_hatch() for patch in axes.patches].count("/////") == 1
    assert "the mean over 2 seeds" in plots[0].caption
    assert_nothing_sticks_out(figure)
    curves = saved[plots[1].name]
    assert [axes.get_title(loc="left") for axes in curves.axes] == [
        *("causal self", "noncausal cross", "causal cross")
    ]
    assert list(curves.axes[0].lines[-1].get_ydata()) == [0.9, 0.45]  # type: ignore[arg-type]
    assert_nothing_sticks_out(curves)


def test_a_task_of_one_pattern_has_no_map(tmp_path: Path) -> None:
    plots = drawn(rows(cross("softmax", "causal_self", 0.9)), tmp_path)
    assert [plot.name.split("_")[0] for plot in plots] == ["pairs"]


def test_models_of_one_number_of_pairs_each_share_a_curve(
    saved: dict[str, Figure], tmp_path: Path
) -> None:
    made = [
        train("softmax", {"accuracy": value}, pattern="causal_self", seed=seed, task="mqar",
              dataset=f"MQAR-L{4 * pairs}-N{pairs}", data={"num_pairs": pairs},
              extra=groups({f"{pairs}_pairs": value}))
        for pairs, value in ((4, 0.9), (8, 0.5)) for seed in (0, 1)
    ]  # fmt: skip
    (plot,) = drawn(rows(made), tmp_path)
    (axes,) = saved[plot.name].axes
    assert list(axes.lines[-1].get_xdata()) == [4, 8]  # type: ignore[arg-type]
    assert list(axes.lines[-1].get_ydata()) == [0.9, 0.5]  # type: ignore[arg-type]


def test_recall_over_the_state_has_a_place_for_none(
    saved: dict[str, Figure], tmp_path: Path
) -> None:
    table = rows(
        train("softmax", {"accuracy": 1.0}, extra=[state(4000)], rules=RULES),
        train("none", {"accuracy": 0.1}, extra=[state(0)]),
        *(
            train("abc", {"accuracy": value}, extra=[state(elements)], settings={"slots": elements})
            for elements, value in ((400, 0.5), (1600, 0.8))
        ),
    )
    (plot,) = drawn(table, tmp_path)
    assert plot.name.startswith("state_causal_self_mqar")
    (axes,) = saved[plot.name].axes
    assert axes.get_xscale() == "log"
    x = {line.get_color(): list(line.get_xdata()) for line in axes.lines}  # type: ignore[arg-type]
    assert x["#000000"] == [4000]
    assert x["#8A8A8A"] == [100]  # a quarter of the least: the axis says 0 there
    assert {"0", "1k", "any value"} <= set(texts(saved[plot.name]))
    assert_nothing_sticks_out(saved[plot.name])


def test_accuracy_over_the_width_beside_zoologys(saved: dict[str, Figure], tmp_path: Path) -> None:
    table = rows(
        train(name, {"accuracy": value * width / 128}, dataset=f"MQAR-L64-N{pairs}",
              data={"num_pairs": pairs}, model={"embed_dim": width}, rules=RULES)
        for name, value in (("softmax", 1.0), ("base_conv", 0.5))
        for width in (64, 128)
        for pairs in (16, 4)
    )  # fmt: skip
    (plot,) = drawn(table, tmp_path)
    figure = saved[plot.name]
    assert figure.axes[0].get_title(loc="left") == "MQAR-L64-N4"
    (ours,) = [line for line in figure.axes[0].lines if line.get_color() == "#D55E00"]
    assert list(ours.get_ydata()) == [0.25, 0.5]  # type: ignore[arg-type]
    (theirs,) = [line for line in figure.axes[2].lines if line.get_color() == "#D55E00"]
    assert theirs.get_ydata()[0] == 0.701  # type: ignore[index]
    assert "Zoology Figure 2 (digitised)" in plot.caption
    assert_nothing_sticks_out(figure)


def test_needles_are_a_map_of_length_by_depth(saved: dict[str, Figure], tmp_path: Path) -> None:
    grid = {f"length_{n}_depth_{d}": n / 100 + d / 100 for n in (16, 32, 64) for d in (0, 0.5, 1)}
    table = rows(
        train(name, {"accuracy": 0.5}, task="needle",
              extra=groups({key: share * value for key, value in grid.items()}))
        for name, share in (("abc", 0.5), ("softmax", 1.0))
    )  # fmt: skip
    (plot,) = drawn(table, tmp_path)
    figure = saved[plot.name]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["softmax", "abc"]
    assert len(figure.axes[0].patches) == 9
    assert "0.65" in texts(figure)
    assert_nothing_sticks_out(figure)


@pytest.mark.parametrize("status", [Status.OK, Status.DIVERGED])
def test_extrapolation_is_a_curve_over_the_length(
    saved: dict[str, Figure], tmp_path: Path, status: Status
) -> None:
    lengths = groups({"length_16": 1.0, "length_32": 0.5, "length_64": 0.25})
    table = rows(
        train("softmax", {"accuracy": 0.5}, task="parity", extra=lengths, rules=RULES),
        train("abc", {"accuracy": 0.5}, task="parity", extra=lengths),
        train("abc", task="parity", seed=1, status=status),
    )
    (plot,) = drawn(table, tmp_path)
    figure = saved[plot.name]
    curves = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert len(curves) == (2 if status is Status.OK else 1)  # a mean would hide the divergence
    assert list(curves[-1].get_ydata()) == [1.0, 0.5, 0.25]  # type: ignore[arg-type]
    assert "any value" in texts(figure)
    assert_nothing_sticks_out(figure)
