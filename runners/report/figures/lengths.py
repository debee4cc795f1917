"""Scores of groups of rows by length and depth: needles in a haystack, and extrapolation."""

import math

import pandas as pd
from matplotlib.axes import Axes

from runners.report import drawing
from runners.report.drawing import Row
from runners.report.figures.canvas import (
    Canvas,
    Plot,
    curve,
    map_axes,
    on_top,
    rows_of,
    rule_line,
    shaded,
)
from runners.report.figures.groups import group_scores
from runners.report.render import file_name
from runners.report.table import PATTERNS, TASK, task_name


def length_figures(canvas: Canvas, rows: pd.DataFrame, scores: pd.DataFrame) -> list[Plot]:
    """A map of length by depth for each mechanism, or curves over the length.

    Args:
        canvas: Where they go.
        rows: The tidy table.
        scores: From `quality`, for the trivial rules.
    """
    found = group_scores(rows).dropna(subset="length")
    plots = []
    for (pattern, *task, of), own in found.groupby(["pattern", *TASK, "of"], sort=False):
        names = [str(part) for part in (pattern, *task, of)]
        if own["depth"].nunique() > 1:
            plots.append(_maps(canvas, names, own.dropna(subset="depth")))
        by_length = own[own["depth"].isna()]
        if by_length["length"].nunique() > 1:
            is_rule = scores["rule"].ne("") & scores["metric"].eq(str(of))
            is_rule &= (scores[["pattern", *TASK]] == [pattern, *task]).all(axis=1)
            plots.append(_curves(canvas, names, by_length, scores[is_rule]))
    return plots


def _maps(canvas: Canvas, names: list[str], cells: pd.DataFrame) -> Plot:
    pattern, _, task, dataset, task_setting, backbone, of = names
    by_row = dict(list(cells.groupby(["attention", "variant", "setting"])))
    order: list[Row] = sorted(by_row, key=lambda row: (-by_row[row]["value"].mean(), row))  # type: ignore[arg-type]
    lengths = sorted(cells["length"].unique())
    depths = sorted(cells["depth"].unique())
    num_columns = min(len(order), 4)
    figure, grid = drawing.panels(
        *(math.ceil(len(order) / num_columns), num_columns),
        *(max(0.45 * len(lengths), 1.5), 0.24 * len(depths)),
        left=0.75,
        between=0.3,
        above=0.4,
        bottom=0.55,
    )
    for axes in grid.flat[len(order) :]:
        axes.remove()
    for i, row in enumerate(order):
        axes = grid.flat[i]
        _map(axes, by_row[row], lengths, depths)
        axes.set_title(drawing.label(row), loc="left", fontsize=8.5)
        if i % num_columns:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel("depth")
        axes.set_xlabel("length" if i + num_columns >= len(order) else "")
    name = f"{task_name(task, dataset, task_setting)}, {PATTERNS.get(pattern, pattern)}"
    drawing.title(figure, f"{name}: {of}")
    seeds = cells.groupby(["attention", "variant", "setting"])["run_id"].nunique()
    told = f"{seeds.min()}" if seeds.nunique() == 1 else f"{seeds.min()} to {seeds.max()}"
    caption = f"{name}: {of} by length and depth, means over {told} seeds; the best first."
    stem = file_name("depth", pattern, task, dataset, task_setting, backbone)
    return canvas.finish(figure, stem, caption)


def _map(axes: Axes, cells: pd.DataFrame, lengths: list[float], depths: list[float]) -> None:
    means = cells.groupby(["length", "depth"])["value"].mean()
    for (length, depth), value in means.items():  # type: ignore[misc]
        shaded(axes, lengths.index(length), depths.index(depth), value, f"{value:.2f}")
    map_axes(axes, (f"{length:g}" for length in lengths), (f"{depth:g}" for depth in depths))


def _curves(canvas: Canvas, names: list[str], curves: pd.DataFrame, rules: pd.DataFrame) -> Plot:
    pattern, _, task, dataset, task_setting, backbone, of = names
    looks = {row: canvas.styles[row] for row in rows_of(curves)}
    figure, grid = drawing.panels(1, 1, 3.4, 2.4, names=looks)
    axes = grid[0, 0]
    for row in on_top(looks):
        curve(axes, curves[[each == row for each in rows_of(curves)]], "length", looks[row])
    rule_line(axes, rules)
    drawing.length_axis(axes, curves["length"].unique())
    axes.set_ylim(-0.03, 1.05)
    axes.set_ylabel(f"{of} ↑")
    axes.set_xlabel("length")
    name = f"{task_name(task, dataset, task_setting)}, {PATTERNS.get(pattern, pattern)}"
    drawing.title(figure, name)
    caption = f"{name}: {of} of one trained model over the length. Bands: range over seeds."
    stem = file_name("extrapolation", pattern, task, dataset, task_setting, backbone)
    return canvas.finish(figure, stem, caption, looks)
