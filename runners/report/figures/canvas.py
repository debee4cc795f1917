"""Where a figure goes, and what its panels share."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from runners.report import drawing
from runners.report.drawing import Row, Style
from runners.report.rules import best_rule
from runners.report.table import BASELINE, ROW

SHADES = matplotlib.colormaps["YlGnBu"]
DARK = 0.55
"""From this share of the shades on, numbers are white."""


@dataclass(frozen=True)
class Plot:
    """A figure that was written as PNG and SVG.

    Attributes:
        name: The stem of its files.
        caption: One or two sentences.
    """

    name: str
    caption: str


@dataclass(frozen=True)
class Canvas:
    """The folder of the figures and the looks of the mechanisms.

    Attributes:
        folder: Where the files go.
        styles: Of every row of the report.
    """

    folder: Path
    styles: dict[Row, Style]

    def finish(
        self, figure: Figure, name: str, caption: str, looks: dict[Row, Style] | None = None
    ) -> Plot:
        """Write a figure, with a legend of these looks."""
        if looks:
            drawing.legend(figure, looks, looks)
        drawing.save(figure, self.folder, name)
        return Plot(name, caption)


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """The mechanism with its settings of each line."""
    return list(frame[ROW].itertuples(index=False, name=None))


def on_top(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order in which they are drawn: softmax last."""
    return sorted(rows, key=lambda row: (row[0] == BASELINE, row))


def in_order(grouped: Any) -> list[tuple[Any, pd.DataFrame]]:
    """The groups of a frame, the numbers in their names in the order of numbers."""

    def key(group: tuple[Any, pd.DataFrame]) -> str:
        return re.sub(r"\d+", lambda found: found[0].zfill(9), " ".join(map(str, group[0])))

    return sorted(grouped, key=key)


def outer_labels(grid: np.ndarray) -> None:
    """Panels of one scale say it once, at the left."""
    for axes in grid[:, 1:].flat:
        axes.tick_params(labelleft=False)


def curve(axes: Axes, values: pd.DataFrame, over: str, style: Style) -> None:
    """The mean over seeds with the range of the seeds.

    Args:
        values: With the columns `over`, value and run_id.
    """
    by_x = values.dropna(subset="value").groupby(over)["value"].agg(["mean", "min", "max"])
    x = by_x.index.to_numpy(float)
    drawing.line(axes, x, by_x["mean"], style)
    if values["run_id"].nunique() > 1:
        drawing.band(axes, x, by_x["min"], by_x["max"], style)


def rule_line(axes: Axes, scores: pd.DataFrame) -> None:
    """The best trivial rule of a panel as a dotted line with its name."""
    best = best_rule(scores.itertuples())
    if best is None or not abs(best.mean) < drawing.DRAWABLE:
        return
    axes.axhline(best.mean, color="0.5", lw=0.9, ls=":", zorder=0.5)
    axes.annotate(
        best.rule,
        (0, best.mean),
        xycoords=("axes fraction", "data"),
        xytext=(3, 2),
        textcoords="offset points",
        fontsize=7,
        color="0.45",
    )


def shaded(axes: Axes, x: int, y: int, value: float, text: str) -> None:
    """A cell of a heat map of shares, one unit square at (x, y)."""
    share = min(max(value, 0.0), 1.0)
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=SHADES(0.9 * share), ec="white", lw=1))
    colour = "white" if share > DARK else "0.15"
    axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color=colour)


def without_value(axes: Axes, x: int, y: int, text: str, *, is_hatched: bool) -> None:
    """A cell without a number: hatched where there can be none, else blank."""
    look: dict[str, Any] = {"fc": "white", "ec": "0.8", "lw": 0.0}
    look |= {"hatch": "/////"} if is_hatched else {}
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **look))
    if text:
        axes.text(x, y, text, ha="center", va="center", fontsize=7, color="#B00000")


def map_axes(axes: Axes, x: Iterable[str], y: Iterable[str]) -> None:
    """The names of the columns and rows of a heat map."""
    x, y = list(x), list(y)
    axes.set_xlim(-0.5, len(x) - 0.5)
    axes.set_ylim(len(y) - 0.5, -0.5)
    axes.set_xticks(range(len(x)), x)
    axes.set_yticks(range(len(y)), y)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
