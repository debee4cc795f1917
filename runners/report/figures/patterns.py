"""One task posed in several attention patterns: what each mechanism keeps of it in each."""

from collections import Counter
from typing import Any

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
    shaded,
    without_value,
)
from runners.report.figures.groups import group_scores
from runners.report.render import file_name
from runners.report.table import PATTERNS, TASK, known_patterns, task_name

SUITE, METRIC = "diagnostics", "accuracy"


def pattern_figures(canvas: Canvas, rows: pd.DataFrame, scores: pd.DataFrame) -> list[Plot]:
    """A heat map of mechanisms by patterns, and curves over the number of pairs.

    Args:
        canvas: Where they go.
        rows: The tidy table.
        scores: From `quality`.
    """
    own = scores[scores["suite"].eq(SUITE) & scores["metric"].eq(METRIC)]
    by_pairs = group_scores(rows).dropna(subset="pairs")
    plots = []
    for task, cells in own[own["pattern"].ne("all")].groupby(TASK, sort=False):
        names = [str(part) for part in task]
        if cells.loc[cells["n"] > 0, "pattern"].nunique() > 1:
            plots.append(_map(canvas, names, cells))
        curves = by_pairs[(by_pairs[TASK] == names).all(axis=1)]
        if curves["pairs"].nunique() > 1:
            plots.append(_curves(canvas, names, curves))
    for (suite, task, backbone), curves in by_pairs.groupby(["suite", "task", "backbone"]):
        one_each = curves.groupby("dataset")["pairs"].nunique().eq(1).all()
        if one_each and curves["pairs"].nunique() > 1:  # models trained on one number each
            plots.append(_curves(canvas, [str(suite), str(task), "", "", str(backbone)], curves))
    return plots


def _map(canvas: Canvas, task: list[str], cells: pd.DataFrame) -> Plot:
    patterns = known_patterns(cells)
    of_mechanisms = cells[cells["rule"].eq("")]
    order = [*_best_first(of_mechanisms), *_best_first(cells[cells["rule"].ne("")])]
    names = [drawing.label(row) for row in order]
    figure, grid = drawing.panels(
        *(1, 1),
        *(0.82 * len(patterns), 0.27 * len(order)),
        left=0.3 + drawing.CHARACTER * max(map(len, names)),
        right=0.35,
        bottom=0.15,
        top=1.0,
    )
    axes: Axes = grid[0, 0]
    usual = Counter(of_mechanisms.loc[of_mechanisms["n"] > 0, "n"]).most_common(1)[0][0]
    known = dict(zip(zip(rows_of(cells), cells["pattern"], strict=True), cells.itertuples(),
                     strict=True))  # fmt: skip
    for y, row in enumerate(order):
        for x, pattern in enumerate(patterns):
            _cell(axes, x, y, known.get((row, pattern)), usual)
    map_axes(axes, [PATTERNS.get(name, name).replace(" ", "\n") for name in patterns], names)
    axes.xaxis.tick_top()
    num_rules = cells.loc[cells["rule"].ne(""), "rule"].nunique()
    if num_rules:
        axes.axhline(len(order) - num_rules - 0.5, color="0.3", lw=1.2)
    name = task_name(task[1], task[2], task[3])
    drawing.title(figure, f"{name}: {METRIC}")
    caption = (
        f"{name}: {METRIC} in each pattern, the mean over {usual} seeds where no other number "
        "stands in brackets; sorted by the mean over the patterns. Hatched: the mechanism has no "
        "such pattern."
    )
    return canvas.finish(figure, file_name("patterns", *task[1:]), caption)


def _cell(axes: Axes, x: int, y: int, score: Any, usual: int) -> None:
    if score is None:
        without_value(axes, x, y, "", is_hatched=False)
    elif not score.n:
        is_hatched = score.status == "unsupported"
        without_value(axes, x, y, "" if is_hatched else score.status, is_hatched=is_hatched)
    else:
        number = "" if score.n == usual or score.rule else f" ({score.n})"
        shaded(axes, x, y, score.mean, f"{score.mean:.3f}{number}")


def _best_first(cells: pd.DataFrame) -> list[Row]:
    """By the mean over the patterns that a row has; those without a score last."""
    means: dict[Any, float] = {
        row: own["mean"].mean() for row, own in cells.groupby(["attention", "variant", "setting"])
    }
    return sorted(means, key=lambda row: (means[row] != means[row], -means[row], row))


def _curves(canvas: Canvas, task: list[str], curves: pd.DataFrame) -> Plot:
    patterns = known_patterns(curves)
    looks = {row: canvas.styles[row] for row in rows_of(curves)}
    num_columns = 2 if len(patterns) == 4 else len(patterns)
    figure, grid = drawing.panels(
        *(-(-len(patterns) // num_columns), num_columns),
        *(2.5, 1.9),
        names=looks,
        above=0.55,
        shared=True,
    )
    for axes in grid.flat[len(patterns) :]:
        axes.remove()
    for axes, pattern in zip(grid.flat, patterns, strict=False):
        own = curves[curves["pattern"] == pattern]
        for row in on_top(set(rows_of(own))):
            curve(axes, own[[each == row for each in rows_of(own)]], "pairs", looks[row])
        axes.set_title(PATTERNS.get(pattern, pattern), loc="left")
        drawing.length_axis(axes, curves["pairs"].unique())
        axes.set_ylim(-0.03, 1.05)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{METRIC} ↑")
    for axes in grid[-1, :]:
        axes.set_xlabel("pairs to recall")
    name = task_name(task[1], task[2], task[3])
    drawing.title(figure, f"{name}, over the number of pairs")
    caption = f"{name}: {METRIC} over the number of pairs in each pattern. Bands: range over seeds."
    return canvas.finish(figure, file_name("pairs", *task[1:]), caption, looks)
