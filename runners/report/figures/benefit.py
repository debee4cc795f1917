"""Softmax against no attention, task by task, and what CAB drew of it."""

import math

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from runners.report import drawing
from runners.report.benefit import FLOOR, Benefit
from runners.report.figures.canvas import Canvas, Plot
from runners.report.table import BASELINE, CONTROL, PATTERNS

NAME = "benefit_of_attention"
LEAST = math.log(1e-4)
"""Below, a ratio is drawn at the edge."""


def benefit_figures(canvas: Canvas, found: list[Benefit]) -> list[Plot]:
    """The ratio of no attention to softmax for each task; beside it CAB's indices where it has any.

    Args:
        canvas: Where it goes.
        found: From `benefits`.
    """
    shown = [one for one in found if one.log_ratio.n]
    if not shown:
        return []
    several = len({one.pattern for one in shown}) > 1
    names = [_name(one, several=several) for one in shown]
    has_theirs = any(math.isfinite(one.published[0]) for one in shown)
    figure, grid = drawing.panels(
        *(1, 1 + has_theirs),
        *(3.4, 0.3 * len(shown) + 0.15),
        left=0.3 + drawing.CHARACTER * max(map(len, names)),
        right=0.3,
        between=0.4,
        top=0.75,
    )
    _ratios(grid[0, 0], shown)
    if has_theirs:
        _indices(grid[0, 1], shown)
    for axes in grid[0]:
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_yticks(range(len(shown)), names if axes is grid[0, 0] else [""] * len(shown))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
    drawing.title(figure, "Benefit of attention")
    caption = (
        f"The score with {CONTROL} over that with {BASELINE} of the same seed: left of 1 the task "
        "needs attention. Points: seeds; lines: 95 % intervals of three seeds or more."
    )
    if has_theirs:
        caption += " Right: CAB's indices (digitised); the arrow is at the floor of its axis."
    return [canvas.finish(figure, NAME, caption)]


def _name(one: Benefit, *, several: bool) -> str:
    name = f"{one.task}{one.mark}"
    return f"{name}, {PATTERNS.get(one.pattern, one.pattern)}" if several else name


def _ratios(axes: Axes, shown: list[Benefit]) -> None:
    edge = [log for one in shown for log in one.logs] + [0.0]
    low, high = max(min(edge), LEAST), max(edge)
    for y, one in enumerate(shown):
        mean = max(one.log_ratio.mean, LEAST)
        axes.plot([1.0, math.exp(mean)], [y, y], color="0.75", lw=2.5, solid_capstyle="butt")
        if one.log_ratio.n > 2:
            ends = [math.exp(max(end, LEAST)) for end in (one.log_ratio.low, one.log_ratio.high)]
            axes.plot(ends, [y, y], color="0.15", lw=1.1)
        seeds = [math.exp(max(log, LEAST)) for log in one.logs]
        axes.plot(seeds, [y] * len(seeds), "o", ms=3, mfc="white", mec="0.2", mew=0.6, zorder=3)
        axes.plot([math.exp(mean)], [y], "D", ms=5.5, color="0.45", zorder=2.5)
    axes.axvline(1.0, color="black", lw=1.1, zorder=0.5)
    room = 0.08 * (high - low) + 0.05
    axes.set_xscale("log")
    axes.set_xlim(math.exp(low - room), math.exp(high + room))
    is_wide = high - low > math.log(4.0)
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1.0, 2.0, 5.0), numticks=12) if is_wide else MaxNLocator(5)
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{CONTROL} / {BASELINE}, below 1 is worse", loc="left")


def _indices(axes: Axes, shown: list[Benefit]) -> None:
    for y, one in enumerate(shown):
        softmax, none = one.published
        if math.isnan(softmax):
            continue
        axes.plot([softmax, none], [y, y], color="0.75", lw=2.5, solid_capstyle="butt")
        axes.plot([softmax], [y], "o", ms=6, color="black", zorder=3)
        axes.plot([none], [y], "<" if none <= FLOOR else "D", ms=5.5, color="0.45", zorder=2.5)
    axes.set_title(f"CAB's index ↑: ● {BASELINE}, ◆ without", loc="left")
