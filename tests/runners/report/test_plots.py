from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from runners.records import Measurement, Record, Status
from runners.report.costs import costs, curves
from runners.report.plots import Plotter
from runners.report.scores import quality
from tests.runners.report.made import rows, speed, train

LENGTHS: tuple[int, ...] = (256, 512, 1024)
METRICS = ("accuracy", "nll", "mse", "f1")


def texts(figure: Figure) -> list[str]:
    everything = figure.findobj(match=lambda artist: hasattr(artist, "get_text"))
    return [artist.get_text() for artist in everything]  # type: ignore[attr-defined]


def assert_nothing_sticks_out(figure: Figure) -> None:
    found, room = figure.get_tightbbox(), figure.bbox_inches
    assert found is not None
    assert (found.x0, found.y0) >= (room.x0, room.y0)
    assert found.x1 <= room.x1
    assert found.y1 <= room.y1


def speed_runs() -> list[Record]:
    return [
        speed(
            name,
            {f"{p}_{q}": {n: n / 100 for n in LENGTHS} for p in passes for q in ("time", "memory")},
            {
                f"{p}_{q}": {n: n**2 / 1e5 if n < 1024 else None for n in LENGTHS}
                for p in passes
                for q in ("time", "memory")
            },
            pattern=pattern,
            comment="oom at 1024: no memory",
        )
        for name in ("abc", "a_mechanism_with_a_long_name")
        for pattern, passes in (
            ("noncausal_self", ["forward"]),
            ("causal_self", ["forward", "decode"]),
        )
    ]


def test_costs_over_length(saved: dict[str, Figure], tmp_path: Path) -> None:
    table = rows(speed_runs())
    plots = Plotter(tmp_path, table).costs(curves(costs(table)))
    assert [plot.name for plot in plots] == ["cost_forward", "cost_decode"]
    assert "cpu, float32" in plots[0].caption
    figure = saved["cost_forward"]
    told = texts(figure)
    for text in ("noncausal self", "causal self", "time per call (ms)", "peak memory (MiB)",
                 "sequence length (tokens)", "× oom", "softmax", "abc"):  # fmt: skip
        assert text in told
    assert len(figure.axes) == 4
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)
    assert_nothing_sticks_out(figure)


def test_quality_bars(saved: dict[str, Figure], tmp_path: Path) -> None:
    names = ("softmax", "abc", "a_mechanism_with_a_long_name")
    table = rows(
        (
            train(name, dict.fromkeys(METRICS, 0.1 * i + s / 50), seed=s)
            for i, name in enumerate(names, start=1)
            for s in range(3)
        ),
        train("local", status=Status.OOM),
        train("performer", {"accuracy": 0.4, "nll": 0.1, "mse": float("inf"), "f1": 0.0}),
    )
    (plot,) = Plotter(tmp_path, table).quality(quality(table))
    figure = saved[plot.name]
    told = texts(figure)
    for text in ("accuracy ↑ higher is better", "nll ↓ lower is better", "oom", "0.4000†",
                 "not finite", "mqar Mqar, causal self", *names):  # fmt: skip
        assert text in told
    assert len(figure.axes) == 4
    bars = [bar.get_window_extent() for bar in figure.axes[0].patches]
    bars.sort(key=lambda bar: -bar.y0)  # the best is at the top
    widths = np.array([bar.width for bar in bars])
    assert widths / widths[0] == pytest.approx(np.array([0.4, 0.32, 0.22, 0.12]) / 0.4)
    assert_nothing_sticks_out(figure)


def test_a_huge_interval_does_not_hide_the_bars(saved: dict[str, Figure], tmp_path: Path) -> None:
    table = rows(
        train("softmax", {"accuracy": value}, seed=i) for i, value in enumerate((0.2, 0.9))
    )
    (plot,) = Plotter(tmp_path, table).quality(quality(table))
    assert saved[plot.name].axes[0].get_xlim() == pytest.approx((0, 1.05 * 0.9))


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_bars_of_nothing_and_below_zero(
    saved: dict[str, Figure], tmp_path: Path, value: float
) -> None:
    table = rows(train("softmax", {"accuracy": value}))
    (plot,) = Plotter(tmp_path, table).quality(quality(table))
    low, high = saved[plot.name].axes[0].get_xlim()
    assert low <= value <= high
    assert low < high


def test_a_task_without_a_result_has_no_figure(tmp_path: Path) -> None:
    table = rows(train("abc", status=Status.FAILED))
    plotter = Plotter(tmp_path, table)
    assert plotter.quality(quality(table)) == []
    assert plotter.costs(curves(costs(table))) == []
    assert plotter.learning(table) == plotter.lengths(table) == []


def language_model(name: str, seed: int, dataset: str = "PG-19-sample") -> Record:
    by_length = [
        Measurement("perplexity", 30.0 + seed, "", "lower", "test", seq_len=n) for n in LENGTHS
    ]
    over_training = [
        Measurement("perplexity", 90.0 / step, "", "lower", "validation", step=step)
        for step in (1, 2, 3)
    ]
    return train(
        name,
        {"perplexity": 30.0},
        seed=seed,
        task="language_modeling",
        dataset=dataset,
        backbone="GPT-2",
        monitor="perplexity",
        extra=(*by_length, *over_training),
    )


def test_perplexity_over_the_context_beside_what_cab_found(
    saved: dict[str, Figure], tmp_path: Path
) -> None:
    table = rows(language_model(name, seed) for name in ("softmax", "abc") for seed in (0, 1))
    (plot,) = Plotter(tmp_path, table).lengths(table)
    figure = saved[plot.name]
    ours, theirs = figure.axes
    assert ours.get_title(loc="left") == "PG-19-sample"
    assert theirs.get_title(loc="left") == "PG-19, published by CAB"
    assert len(ours.lines) == 2
    (abc,) = [line for line in theirs.lines if line.get_color() == "#0072B2"]
    assert abc.get_ydata()[0] == 36.9  # type: ignore[index]
    assert {"softmax", "abc", "s4d", "longshort", "local_window"} <= set(texts(figure))
    assert_nothing_sticks_out(figure)


def test_generated_books_have_no_published_panel_beside_them(
    saved: dict[str, Figure], tmp_path: Path
) -> None:
    table = rows(language_model("abc", 0, dataset="books-synthetic"))
    (plot,) = Plotter(tmp_path, table).lengths(table)
    assert len(saved[plot.name].axes) == 1
    assert "CAB" not in plot.caption


def test_a_curve_ends_where_the_first_of_its_seeds_diverged(
    saved: dict[str, Figure], tmp_path: Path
) -> None:
    short = language_model("abc", 1)
    kept = tuple(m for m in short.measurements if m.step is not None and m.step < 3)
    short = replace(short, status=Status.DIVERGED, measurements=kept)
    table = rows(language_model("softmax", 0), language_model("abc", 0), short)
    (plot,) = Plotter(tmp_path, table).learning(table)
    (axes,) = saved[plot.name].axes
    ends = {line.get_color(): list(line.get_xdata()) for line in axes.lines}  # type: ignore[arg-type]
    assert ends["#000000"] == [1, 2, 3]
    assert ends["#0072B2"] == [1, 2]
    assert "× diverged" in texts(saved[plot.name])
    (plot,) = Plotter(tmp_path, table).lengths(table)  # it has no test that the others could hide
    assert len(saved[plot.name].axes[0].lines) == 1


def test_other_tasks_have_no_published_panel(saved: dict[str, Figure], tmp_path: Path) -> None:
    curve = [Measurement("accuracy", 0.5, "", "higher", "test", seq_len=n) for n in LENGTHS]
    one_length = [Measurement("f1", 0.5, "", "higher", "test", seq_len=256)]
    table = rows(train("abc", {"accuracy": 0.5}, extra=[*curve, *one_length]))
    (plot,) = Plotter(tmp_path, table).lengths(table)
    assert len(saved[plot.name].axes) == 1
    assert "CAB" not in plot.caption


def test_learning_curves(saved: dict[str, Figure], tmp_path: Path) -> None:
    table = rows(language_model(name, seed) for name in ("softmax", "abc") for seed in (0, 1))
    (plot,) = Plotter(tmp_path, table).learning(table)
    assert plot.name == "learning_causal_self"
    (axes,) = saved[plot.name].axes
    assert axes.get_ylabel() == "perplexity ↓"
    assert list(axes.lines[0].get_xdata()) == [1, 2, 3]  # type: ignore[arg-type]
    assert_nothing_sticks_out(saved[plot.name])


def test_a_single_validation_is_a_point(saved: dict[str, Figure], tmp_path: Path) -> None:
    run = language_model("softmax", 0)
    once = replace(run, measurements=tuple(m for m in run.measurements if m.step in (None, 1)))
    (plot,) = Plotter(tmp_path, rows(once)).learning(rows(once))
    assert [line.get_marker() for line in saved[plot.name].axes[0].lines] == ["o"]
