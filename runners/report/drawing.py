"""How every figure of a report looks: one style per mechanism, panels, legend, files.

The colours are those of Okabe and Ito ("Color Universal Design", 2008), which the colour-blind can
tell apart, and three of Paul Tol's; softmax is black and the control grey. Sizes are in inches and
set by hand, because matplotlib's own layouts draw every figure twice.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike

from runners.report.table import BASELINE, CONTROL, RULE, row_name

matplotlib.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "0.4",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.9",
        "grid.linewidth": 0.6,
        "xtick.color": "0.3",
        "ytick.color": "0.3",
        "legend.frameon": False,
        "legend.handlelength": 2.6,
        "svg.fonttype": "none",
        "text.parse_math": False,  # a name with a `$` is no formula
        "svg.hashsalt": "attnbench",
        "savefig.dpi": 150,
    }
)
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#882255", "#999933", "#332288"),
)
MARKERS = "osD^vPX<>p*h"
LINES = ("-", "--", ":", "-.")
FILLS = ("full", "none", "left", "bottom")
CHARACTER = 0.075
"""The width of a character."""
LABEL = 44
"""The longest name that a figure shows, in characters."""
LEGEND_LINE = 0.195
"""The height of a name in a legend."""
DRAWABLE = 1e100
"""Beyond this a value has no place on an axis, whose limits would overflow."""

Row = tuple[str, str, str]
"""A mechanism with its settings: (attention, variant, setting)."""


@dataclass(frozen=True)
class Style:
    """How a mechanism looks."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]
    fill: str
    width: float


def styles(rows: Iterable[Row]) -> dict[Row, Style]:
    """The look of each row: a colour and a marker per mechanism, a kind of line per settings.

    Trivial rules are thin and grey, with a kind of line each.

    No two rows look the same up to 108 mechanisms of 16 settings: a colour comes again with other
    markers, and with another kind of line first.
    """
    by_attention: dict[str, list[Row]] = {}
    of_rules = sorted({row for row in rows if row[0].startswith(RULE)})
    for row in sorted(set(rows).difference(of_rules)):
        by_attention.setdefault(row[0], []).append(row)
    colours, markers = {BASELINE: "#000000", CONTROL: "#8A8A8A"}, {BASELINE: "", CONTROL: ""}
    rounds = {BASELINE: 0, CONTROL: 0}
    for i, attention in enumerate(name for name in by_attention if name not in colours):
        number, colour = divmod(i, len(COLOURS))
        colours[attention], rounds[attention] = COLOURS[colour], number
        markers[attention] = MARKERS[(colour + number) % len(MARKERS)]
    looks = {
        row: Style(
            colours[attention],
            markers[attention],
            LINES[(rounds[attention] + i) % len(LINES)],
            FILLS[i // len(LINES) % len(FILLS)],
            2.2 if attention == BASELINE else 1.4,
        )
        for attention, own in by_attention.items()
        for i, row in enumerate(own)
    }
    return looks | {row: rule_style(i) for i, row in enumerate(of_rules)}


def restyled(looks: dict[Row, Style], rows: Iterable[Row]) -> dict[Row, Style]:
    """The look of rows that join several of a report: each mechanism keeps its colour."""
    of = {row[0]: look for row, look in reversed(looks.items())}
    by_attention: dict[str, list[Row]] = {}
    for row in sorted(set(rows)):
        by_attention.setdefault(row[0], []).append(row)
    return {
        row: replace(of[attention], line=LINES[i % len(LINES)], fill=FILLS[i // len(LINES) % 4])
        for attention, own in by_attention.items()
        for i, row in enumerate(own)
    }


def marked(style: Style) -> Style:
    """The same look with a mark at each point, of softmax and the control too."""
    return style if style.marker else replace(style, marker="s")


def rule_style(number: int) -> Style:
    """The look of a trivial rule, which is a line at its score."""
    kinds = ((0, (4, 3)), (0, (1, 2)), (0, (6, 2, 1, 2)), (0, (8, 2)))
    return Style("#A0A0A0", "", kinds[number % len(kinds)], "full", 1.0)


def label(row: Row) -> str:
    """The name of a row, its middle left out where it is long."""
    name = row_name(*row)
    return name if len(name) <= LABEL else f"{name[: LABEL - 15]}…{name[-14:]}"


def panels(
    num_rows: int,
    num_columns: int,
    width: float,
    height: float,
    *,
    names: Iterable[Row] = (),
    left: float = 0.75,
    right: float = 0.2,
    bottom: float = 0.5,
    top: float = 0.62,
    between: float = 0.2,
    above: float = 0.2,
    shared: bool = False,
) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of panels of one size.

    Args:
        names: The rows of its legend. Where they are many the panels are larger.
        shared: Whether the panels of a row, and of a column, share their axes.
    """
    names = set(names)
    larger = 1.0 if len(names) <= 10 else 1.3 if len(names) <= 20 else 1.7
    width, height = larger * width, larger * height
    tall = bottom + num_rows * height + (num_rows - 1) * above + top
    if names:
        right = _num_legend_columns(len(names), tall) * _legend_column(names) + 0.15
    total = (left + num_columns * width + (num_columns - 1) * between + right, tall)
    figure = Figure(figsize=total)
    axes = figure.subplots(
        num_rows,
        num_columns,
        squeeze=False,
        sharex="col" if shared else False,
        sharey="row" if shared else False,
        gridspec_kw={
            "left": left / total[0],
            "right": 1 - right / total[0],
            "bottom": bottom / total[1],
            "top": 1 - top / total[1],
            "wspace": between / width,
            "hspace": above / height,
        },
    )
    return figure, axes


def title(figure: Figure, text: str) -> None:
    """A title at the upper left of a figure."""
    width, height = figure.get_size_inches()
    figure.text(0.12 / width, 1 - 0.1 / height, text, va="top", fontsize=11)


def line(axes: Axes, x: ArrayLike, y: ArrayLike, style: Style) -> None:
    """A curve with a mark at each measured point; the baseline's only where it is a lone one."""
    look, known = _look(style), _drawable(y)
    if np.isfinite(known).sum() == 1 and not style.marker:
        look["marker"] = "o"
    axes.plot(x, known, **look)


def band(axes: Axes, x: ArrayLike, low: ArrayLike, high: ArrayLike, style: Style) -> None:
    """What lies around a curve."""
    axes.fill_between(
        np.asarray(x), _drawable(low), _drawable(high), color=style.colour, alpha=0.15, lw=0
    )


def _drawable(values: ArrayLike) -> np.ndarray:
    found = np.asarray(values, dtype=float)
    return np.where(np.abs(found) < DRAWABLE, found, math.nan)


def _look(style: Style) -> dict[str, Any]:
    return {
        "color": style.colour,
        "ls": style.line,
        "lw": style.width,
        "marker": style.marker,
        "fillstyle": style.fill,
        "ms": 4.5,
        "mec": "white" if style.fill == "full" else style.colour,
        "mew": 0.4 if style.fill == "full" else 0.9,
    }


def _num_legend_columns(num_rows: int, height: float) -> int:
    return math.ceil(num_rows * LEGEND_LINE / (height - 0.3))


def _legend_column(rows: Iterable[Row]) -> float:
    """The width of a column of a legend."""
    return 0.7 + CHARACTER * max(len(label(row)) for row in rows)


def legend(figure: Figure, rows: Iterable[Row], looks: dict[Row, Style]) -> None:
    """The mechanisms to the right of the panels: softmax first, the control last."""
    rows = sorted(set(rows), key=lambda row: (row[0] == CONTROL, row[0] != BASELINE, row))
    handles = [Line2D([], [], label=label(row), **_look(looks[row])) for row in rows]
    width, height = figure.get_size_inches()
    num_columns = _num_legend_columns(len(rows), height)
    place = 1 - num_columns * _legend_column(rows) / width
    figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(place, 0.5),
        ncols=num_columns,
        columnspacing=1.0,
        labelspacing=0.35,
    )


def length_axis(axes: Axes, lengths: Iterable[float]) -> None:
    """A logarithmic axis of lengths, with marks at those measured but where they would overlap."""
    axes.set_xscale("log", base=2)
    kept: list[float] = []
    for length in sorted(lengths, reverse=True):
        if not kept or math.log2(kept[-1] / length) > 0.7:
            kept.append(float(length))
    axes.set_xticks(kept[:: -(-len(kept) // 9)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def log_axis(axes: Axes, values: Iterable[float]) -> None:
    """A logarithmic y axis with plain numbers, more of them where the values span little."""
    axes.set_yscale("log")
    finite = [value for value in values if 0 < value < DRAWABLE]
    decades = math.log10(max(finite) / min(finite)) if finite else 1.0
    subs = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.3 else (1.0, 2.0, 3.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _short(length: float) -> str:
    """1024 as 1k: lengths are powers of two more often than not."""
    return f"{length / 1024:g}k" if length >= 1024 and length % 512 == 0 else f"{length:g}"


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `<name>.png` and `<name>.svg`; the same figure gives the same files."""
    with warnings.catch_warnings():
        # A name may have letters that the font lacks: they show as boxes.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(folder / f"{name}.png", pil_kwargs={"compress_level": 4})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
