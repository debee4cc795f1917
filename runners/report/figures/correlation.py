"""Correlations of patterns, and of tasks, as maps, ours beside CAB's."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from runners.report import drawing
from runners.report.correlation import (
    PATTERN_TABLE,
    TASK_TABLE,
    Columns,
    Correlation,
    by_pattern,
    by_task,
    correlations,
    published,
)
from runners.report.figures.canvas import Canvas, Plot, map_axes
from runners.report.published import slips
from runners.report.table import GENERATED

SHADES = matplotlib.colormaps["RdBu"]
DARK = 0.6
"""From this coefficient on, numbers are white."""

Cells = Mapping[frozenset[str], tuple[float, str]]
"""Of two columns: the shade, NaN for none, and the text."""


def correlation_figures(canvas: Canvas, scores: Any) -> list[Plot]:
    """A map for patterns and one for tasks, where any coefficient rests on enough mechanisms.

    Args:
        canvas: Where they go.
        scores: From `quality`.
    """
    plots = []
    for name, what, columns in (
        (PATTERN_TABLE, "patterns", by_pattern(scores)),
        (TASK_TABLE, "tasks", by_task(scores)),
    ):
        found = correlations(columns.values)
        if any(one.is_shown for one in found):
            plots.append(_figure(canvas, name, what, found, columns))
    return plots


def _figure(
    canvas: Canvas, name: str, what: str, found: list[Correlation], columns: Columns
) -> Plot:
    order = [str(name) for name in columns.values]
    theirs = _theirs(name, found, columns)
    size = 0.62 * len(order)
    figure, grid = drawing.panels(
        *(1, 1 + bool(theirs)),
        *(size, 0.72 * size),
        left=0.3 + drawing.CHARACTER * max(map(len, order)),
        right=0.3,
        bottom=0.85 if name == TASK_TABLE else 0.4,
        between=0.5 + drawing.CHARACTER * max(map(len, order)),
        top=0.75,
    )
    _map(grid[0, 0], order, _ours(found))
    grid[0, 0].set_title("ours (n)", loc="left")
    if theirs:
        _map(grid[0, 1], order, theirs)
        grid[0, 1].set_title("CAB", loc="left")
    if name == TASK_TABLE:
        for axes in grid[0]:
            axes.tick_params(axis="x", rotation=90)
    drawing.title(figure, f"Correlation of {what}")
    caption = (
        f"Correlation of {what} over the n mechanisms that both have; grey: n alone, where it is "
        "too few or without spread."
    )
    if theirs:
        caption += " Right: CAB's as printed, of 2 to 10 mechanisms (digitised from its colours). "
        caption += " ".join(slips.footnotes(text for _, text in theirs.values()))
    return canvas.finish(figure, name, caption)


def _ours(found: list[Correlation]) -> Cells:
    return {
        frozenset((one.one, one.other)): (
            (one.r, f"{one.r:.2f} ({one.n})") if one.is_shown else (math.nan, f"({one.n})")
        )
        for one in found
    }


def _theirs(name: str, found: list[Correlation], columns: Columns) -> Cells:
    known = published(name)
    pairs = [
        frozenset((one.one, one.other))
        for one in found
        if columns.mark(one.one, one.other) != GENERATED
    ]
    return {
        pair: (known[pair]["pearson_r"], f"{known[pair]['pearson_r']:.2f}{known[pair]['marks']}")
        for pair in pairs
        if pair in known
    }


def _map(axes: Axes, order: list[str], cells: Cells) -> None:
    """The lower triangle."""
    for y, row in enumerate(order):
        for x, column in enumerate(order[:y]):
            r, text = cells.get(frozenset((row, column)), (math.nan, ""))
            is_blank = math.isnan(r)
            fill = "white" if is_blank else SHADES(0.5 + 0.45 * r)
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=fill, ec="0.9", lw=0.8))
            colour = "0.6" if is_blank else "white" if abs(r) > DARK else "0.15"
            axes.text(x, y, text, ha="center", va="center", fontsize=7, color=colour)
    map_axes(axes, order[:-1], order)
    axes.set_xlim(-0.5, len(order) - 1.5)
    axes.set_ylim(len(order) - 0.5, 0.5)
    axes.set_yticks(range(1, len(order)), order[1:])
