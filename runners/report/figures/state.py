"""Recall against the size of the decoding state: what a mechanism keeps, over what it carries."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from runners.report import drawing
from runners.report.drawing import Row, Style
from runners.report.figures.canvas import (
    Canvas,
    Plot,
    in_order,
    on_top,
    outer_labels,
    rows_of,
    rule_line,
)
from runners.report.render import file_name
from runners.report.table import PATTERNS, ROW, TASK, is_own, task_name
from runners.report.tuning import best_of_settings

SUITE, METRIC, STATE = "diagnostics", "accuracy", "state_elements"


def state_figures(canvas: Canvas, rows: pd.DataFrame, scores: pd.DataFrame) -> list[Plot]:
    """A figure per task and pattern, with a panel for each of its data sets.

    Args:
        canvas: Where they go.
        rows: The tidy table; a run of a causal pattern says how large its state is.
        scores: From `quality`.
    """
    line = ["pattern", *TASK, *ROW]
    known = rows[rows["metric"].eq(STATE) & rows["command"].eq("train") & is_own(rows)]
    sizes = known.dropna(subset="value").groupby(line)["value"].median().rename("state")
    own = scores[scores["suite"].eq(SUITE) & scores["metric"].eq(METRIC) & (scores["n"] > 0)]
    points = own.merge(sizes.reset_index(), on=line)
    points = points.merge(best_of_settings(rows)[line], on=line)
    plots = []
    of_figure = ["pattern", "suite", "task", "backbone"]
    for (pattern, _, task, backbone), found in points.groupby(of_figure, sort=False):
        if found["state"].nunique() > 1:
            rules = own[own["rule"].ne("") & own["task"].eq(str(task))]
            rules = rules[rules["pattern"].eq(str(pattern))]
            plots.append(_figure(canvas, (str(pattern), str(task), str(backbone)), found, rules))
    return plots


def _figure(
    canvas: Canvas, names: tuple[str, str, str], points: pd.DataFrame, rules: pd.DataFrame
) -> Plot:
    pattern, task, backbone = names
    panels = in_order(points.groupby(["dataset", "task_setting"]))
    lines = {(row[0], row[1], "") for row in rows_of(points)}
    looks = drawing.restyled(canvas.styles, lines)
    looks = {row: drawing.marked(look) for row, look in looks.items()}
    num_columns = min(len(panels), 3)
    figure, grid = drawing.panels(
        *(math.ceil(len(panels) / num_columns), num_columns),
        *(2.8, 2.2),
        names=looks,
        above=0.75,
    )
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, (key, own) in zip(grid.flat, panels, strict=False):
        dataset, task_setting = map(str, key)
        _panel(axes, own, looks)
        is_here = rules["dataset"].eq(dataset) & rules["task_setting"].eq(task_setting)
        rule_line(axes, rules[is_here])
        axes.set_title(task_name("", dataset, task_setting), loc="left")
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlabel("state (elements)")
    outer_labels(grid)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{METRIC} ↑")
    reads = PATTERNS.get(pattern, pattern)
    drawing.title(figure, f"{task}, {reads}: {METRIC} over the decoding state")
    caption = (
        f"{task}, {reads}: {METRIC} over the numbers in the decoding state behind a sequence, in "
        "all places under test. Points: means over seeds, joined where a mechanism has several "
        "widths; at 0: nothing is carried. Dotted: the best trivial rule."
    )
    return canvas.finish(figure, file_name("state", pattern, task, backbone), caption, looks)


def _panel(axes: Axes, points: pd.DataFrame, looks: dict[Row, Style]) -> None:
    least = points.loc[points["state"] > 0, "state"].min()
    nothing = least / 4  # a logarithmic axis has no place for 0
    axes.set_xscale("log")
    by_line = {row: points[[each[:2] == row[:2] for each in rows_of(points)]] for row in looks}
    for row in on_top(row for row, own in by_line.items() if len(own)):
        own = by_line[row].sort_values("state")
        x = own["state"].where(own["state"] > 0, nothing)
        drawing.line(axes, x, own["mean"], looks[row])
    names = {nothing: "0"} if points["state"].eq(0).any() else {}
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: names.get(x) or (f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    )
    if names:
        ticks = [x for x in LogLocator().tick_values(least, points["state"].max()) if x > nothing]
        axes.set_xticks([nothing, *ticks])
        axes.set_xlim(nothing / 1.5, points["state"].max() * 1.5)
