"""The figures of a report: costs over length, quality with its uncertainty, and curves."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from runners.report import drawing
from runners.report.costs import BENCH, PASSES, QUANTITIES
from runners.report.drawing import Row, Style
from runners.report.extrapolation import TRAINED, over_lengths, trained_length
from runners.report.figures.canvas import Plot
from runners.report.grid import ARROWS
from runners.report.index import PERPLEXITIES
from runners.report.leaderboard import estimate_of, same_words
from runners.report.published.cab import TASKS, read
from runners.report.render import file_name
from runners.report.rules import best_rule
from runners.report.table import BASELINE, GENERATED, PATTERNS, ROW, TASK, known_patterns, task_name

LONGEST = 1.6
"""How far beyond the longest bar an interval is drawn; past that it leaves the picture."""
COST_AXES = {"time": "time per call (ms)", "memory": "peak memory (MiB)"}
SCATTER = "the median plus and minus half of the interquartile range"
BAND = "Bands: range over seeds."
RULE_BAR: dict[str, Any] = {"color": "white", "ec": "0.6", "hatch": "////", "lw": 0.6}
INTERVAL: dict[str, Any] = {"ecolor": "0.15", "elinewidth": 1, "capsize": 2.5}


class Plotter:
    """Draws the figures of one report.

    Args:
        folder: Where the files go.
        rows: The tidy table, for its mechanisms.
    """

    def __init__(self, folder: Path, rows: pd.DataFrame) -> None:
        self.folder = folder
        published = [(name, "", "") for name in read("extrapolation")["attention"].unique()]
        self.styles: dict[Row, Style] = drawing.styles([*_rows_of(rows), *published])

    def costs(self, curves: pd.DataFrame) -> list[Plot]:
        """Time and memory over length in log-log: a figure per pass, a column per pattern.

        Args:
            curves: From `costs.curves`.
        """
        plots = []
        for number, (_, bench) in enumerate(curves.groupby(BENCH[1:], sort=False)):
            suffix = f"_{number + 1}" if number else ""
            for name in PASSES:
                own = bench[bench["pass"] == name]
                if not own.empty:
                    plots.append(self._costs(own, name, suffix))
        return plots

    def _costs(self, curves: pd.DataFrame, name: str, suffix: str) -> Plot:
        patterns = known_patterns(curves)
        quantities = [quantity for quantity in QUANTITIES if quantity in set(curves["quantity"])]
        figure, grid = drawing.panels(
            len(quantities), len(patterns), 2.3, 1.9, names=_rows_of(curves), shared=True
        )
        for i, quantity in enumerate(quantities):
            for j, pattern in enumerate(patterns):
                is_here = curves["pattern"].eq(pattern) & curves["quantity"].eq(quantity)
                self._cost_panel(grid[i, j], curves[is_here])
            grid[i, 0].set_ylabel(COST_AXES[quantity])
            drawing.log_axis(grid[i, 0], curves.loc[curves["quantity"] == quantity, "value"])
        for j, pattern in enumerate(patterns):
            grid[0, j].set_title(_reads(pattern))
            grid[-1, j].set_xlabel("sequence length (tokens)")
            drawing.length_axis(grid[-1, j], curves["seq_len"].unique())
        first = curves.iloc[0]
        where = ", ".join(filter(None, (first["device"], first["dtype"], first["setting"])))
        drawing.title(figure, f"{PASSES[name]}  ({where})")
        caption = f"{PASSES[name].capitalize()} over length ({where}). Bands: {SCATTER}."
        return self._finish(figure, curves, f"cost_{name}{suffix}", caption)

    def _cost_panel(self, axes: Axes, curves: pd.DataFrame) -> None:
        for style, curve in self._in_order(curves):
            curve = curve.sort_values("seq_len")
            x, y = curve["seq_len"].to_numpy(float), curve["value"].to_numpy(float)
            drawing.line(axes, x, y, style)
            half = np.nan_to_num(curve["iqr"].to_numpy(float)) / 2
            if half.any():
                drawing.band(axes, x, np.maximum(y - half, y / 10), y + half, style)
            self._tell_end(axes, curve, style)

    def _tell_end(self, axes: Axes, curve: pd.DataFrame, style: Style) -> None:
        """Say why a curve ends before the others: `oom` or `timeout`."""
        is_there = curve["value"].notna()
        there, missing = curve[is_there], curve[~is_there & curve["comment"].ne("")]
        if missing.empty or there.empty:
            return
        why = f"× {missing['comment'].iloc[0].split()[0]}"
        _write_at(axes, there["seq_len"].iloc[-1], there["value"].iloc[-1], why, style)

    def quality(self, scores: pd.DataFrame) -> list[Plot]:
        """Bars with their intervals: a figure per pattern and task, a panel per metric.

        Args:
            scores: From `statistics.quality`.
        """
        known = scores[scores["metric"].ne("")]
        return [
            self._bars(pattern, [str(part) for part in task], own)
            for pattern in known_patterns(known)
            for task, own in known[known["pattern"] == pattern].groupby(TASK, sort=False)
            if (own["mean"].abs() < drawing.DRAWABLE).any()
        ]

    def _bars(self, pattern: str, task: list[str], scores: pd.DataFrame) -> Plot:
        metrics = list(dict.fromkeys(scores["metric"]))
        by_metric = [_best_first(scores[scores["metric"] == metric]) for metric in metrics]
        order = list(dict.fromkeys(row for rows in by_metric for row in rows))
        names = [drawing.label(row) for row in order]
        room = 0.25 + drawing.CHARACTER * max(len(_number(cell)) for cell in scores.itertuples())
        num_columns = len(metrics) if len(metrics) <= 3 else 2
        figure, grid = drawing.panels(
            *(math.ceil(len(metrics) / num_columns), num_columns),
            *(2.2, 0.27 * len(order)),
            left=0.25 + drawing.CHARACTER * max(map(len, names)),
            right=room,
            between=room,
            above=0.55,
            bottom=0.3,
        )
        for axes in grid.flat[len(metrics) :]:
            axes.remove()
        for axes, metric in zip(grid.flat, metrics, strict=False):
            self._bar_panel(axes, scores[scores["metric"] == metric], order)
        for axes in grid[:, 0]:
            axes.set_yticks(range(len(order)), names)
        name = f"{task_name(task[1], task[2], task[3], task[4], among=2)}, {_reads(pattern)}"
        drawing.title(figure, name)
        drawing.save(figure, self.folder, stem := file_name("quality", pattern, *task[1:]))
        return Plot(
            stem,
            f"{name}. Bars: means over seeds; points: seeds; lines: 95 % intervals, of three seeds "
            "or more, cut where they leave the picture."
            + (" Hatched: trivial rules, the best of them dotted." if scores["rule"].any() else ""),
        )

    def _bar_panel(self, axes: Axes, scores: pd.DataFrame, order: list[Row]) -> None:
        rows = zip(_rows_of(scores), scores.itertuples(), strict=True)
        cells: list[tuple[int, Row, Any]] = [(order.index(row), row, cell) for row, cell in rows]
        shown = [cell for cell in cells if abs(cell[2].mean) < drawing.DRAWABLE]
        if shown:
            points = [(value, i) for i, _, cell in shown for value in cell.values]
            for i, row, cell in shown:
                look = RULE_BAR if cell.rule else {"color": self.styles[row].colour, "lw": 0}
                axes.barh(i, cell.mean, 0.66, alpha=0.6, **look)
            intervals = [(i, cell) for i, _, cell in shown if cell.n > 2 and cell.low < cell.high]
            for i, cell in intervals:
                ends = [[cell.mean - cell.low], [cell.high - cell.mean]]
                axes.errorbar(cell.mean, i, xerr=ends, fmt="none", **INTERVAL)
            axes.plot(*zip(*points, strict=True), "o", ms=3, mfc="white", mec="0.2", mew=0.6)
            values = [value for value, _ in points]
            highs = [cell.high for _, cell in intervals if cell.high < LONGEST * max(values)]
            farthest = max(values + highs)
            axes.set_xlim(min(0.0, 1.1 * min(values)), 1.05 * farthest if farthest > 0 else 1.0)
        for i, row, cell in cells:
            self._print(axes, i, cell)
            if row[0] == BASELINE and abs(cell.mean) < drawing.DRAWABLE:
                axes.axvline(cell.mean, color="black", lw=0.9, ls=(0, (4, 3)), zorder=0.5)
        if (best := best_rule(scores.itertuples())) and abs(best.mean) < drawing.DRAWABLE:
            axes.axvline(best.mean, color="0.5", lw=0.9, ls=":", zorder=0.5)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_yticks([])
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        metric, unit = scores["metric"].iloc[0], scores["unit"].iloc[0]
        direction = scores["direction"].iloc[0]
        named = f"{metric} ({unit})" if unit else metric
        axes.set_title(f"{named} {ARROWS[direction]} {direction} is better", loc="left")

    def _print(self, axes: Axes, i: int, cell: Any) -> None:
        """The number of a bar beside the panel, or why there is none."""
        is_calm = cell.n or cell.status == "unsupported"
        colour = "0.2" if cell.n and not cell.same_as else "0.55" if is_calm else "#B00000"
        across = axes.get_yaxis_transform()
        axes.text(1.02, i, _number(cell), transform=across, va="center", fontsize=8, color=colour)

    def learning(self, rows: pd.DataFrame) -> list[Plot]:
        """The monitored validation metric over training: a figure per pattern, a panel per task.

        Args:
            rows: The tidy table.
        """
        is_curve = rows["step"].notna() & rows["split"].eq("validation")
        is_curve &= rows["status"].isin(["ok", "diverged"]) & rows["metric"].eq(rows["monitor"])
        curves = rows[is_curve]
        plots = []
        for pattern in known_patterns(curves):
            own = curves[curves["pattern"] == pattern]
            tasks = list(own.groupby([*TASK, "metric"]))
            num_columns = min(len(tasks), 3)
            figure, grid = drawing.panels(
                *(math.ceil(len(tasks) / num_columns), num_columns),
                *(2.8, 2.1),
                names=_rows_of(own),
                between=0.75,
                above=0.9,
                top=0.8,
            )
            for axes in grid.flat[len(tasks) :]:
                axes.remove()
            for axes, (key, curve) in zip(grid.flat, tasks, strict=False):
                _, task, dataset, task_setting, _, metric = map(str, key)
                self._curve_panel(axes, curve, "step")
                axes.set_title(f"{task}\n{task_name('', dataset, task_setting)}", loc="left")
                axes.set_ylabel(f"{metric} {ARROWS.get(curve['direction'].iloc[0], '')}")
                axes.set_xlabel("training step")
            drawing.title(figure, f"learning curves, {_reads(pattern)}")
            caption = f"Validation over training, {_reads(pattern)}. {BAND}"
            plots.append(self._finish(figure, own, f"learning_{pattern}", caption))
        return plots

    def lengths(self, rows: pd.DataFrame) -> list[Plot]:
        """Test metrics over the context length, a figure per task; beside them what CAB found.

        Args:
            rows: The tidy table.
        """
        return [
            self._lengths(str(pattern), [str(part) for part in task], own)
            for (pattern, *task), own in over_lengths(rows).groupby(["pattern", *TASK], sort=False)
        ]

    def _lengths(self, pattern: str, task: list[str], curves: pd.DataFrame) -> Plot:
        metrics = list(dict.fromkeys(curves["metric"]))
        is_generated = task[2].endswith(GENERATED)
        is_cab = TASKS.get(task[1]) == "LM" and "perplexity" in metrics and not is_generated
        theirs = read("extrapolation").rename(columns={"context_length": "seq_len"})
        theirs = theirs.assign(variant="", setting="", run_id="", status="ok", is_nan=False)
        drawn = pd.concat([curves, theirs]) if is_cab else curves
        trained = trained_length(curves["data_settings"].iloc[0])
        figure, grid = drawing.panels(
            1, len(metrics) + is_cab, 2.8, 2.3, names=_rows_of(drawn), between=0.75
        )
        for axes, metric in zip(grid[0], metrics, strict=False):
            own = curves[curves["metric"] == metric]
            self._curve_panel(axes, own, "seq_len")
            axes.set_title(task_name("", task[2], task[3]), loc="left")
            axes.set_ylabel(f"{metric} {ARROWS[own['direction'].iloc[0]]}")
            if trained is not None:
                axes.axvline(trained, color="0.5", lw=0.8, ls=":")
        caption = f"{task_name(task[1], task[2], task[3])}, {_reads(pattern)}, over the context "
        caption += f"length. {BAND}"
        caption += "" if trained is None else f" Dotted: the length of training, {trained:,}."
        if is_cab:
            self._curve_panel(grid[0, -1], theirs, "seq_len")
            grid[0, -1].set_title("PG-19, published by CAB", loc="left")
            grid[0, -1].set_ylabel("perplexity ↓")
            grid[0, -1].axvline(TRAINED, color="0.5", lw=0.8, ls=":")
            caption += (
                " Right: CAB's figure (digitised), trained at 8,192 tokens; what is above 100 "
            )
            caption += "is not drawn there."
        for axes in grid[0]:
            axes.set_xlabel("context length (tokens)")
        drawing.title(figure, f"{task[1]}, {_reads(pattern)}, over the context length")
        name = file_name("length", pattern, *task[1:])
        return self._finish(figure, drawn, name, caption)

    def _curve_panel(self, axes: Axes, curves: pd.DataFrame, over: str) -> None:
        for style, curve in self._in_order(curves):
            by_x = curve.dropna(subset="value").groupby(over)["value"].agg(["mean", "min", "max"])
            end = _divergence(curve, over)
            by_x = by_x[by_x.index <= end]
            x = by_x.index.to_numpy(float)
            drawing.line(axes, x, by_x["mean"], style)
            if curve["run_id"].nunique() > 1:
                drawing.band(axes, x, by_x["min"], by_x["max"], style)
            if end < math.inf and len(x):
                _write_at(axes, x[-1], by_x["mean"].iloc[-1], "× diverged", style)
        if over == "seq_len":
            drawing.length_axis(axes, curves[over].unique())
        if curves["metric"].isin(PERPLEXITIES).all():
            drawing.log_axis(axes, curves["value"])

    def _in_order(self, curves: pd.DataFrame) -> Iterator[tuple[Style, pd.DataFrame]]:
        """The curves of a panel by mechanism, the baseline last: drawn on top."""
        grouped: list[tuple[Any, pd.DataFrame]] = list(curves.groupby(ROW, sort=True))
        for row, curve in sorted(grouped, key=lambda item: item[0][0] == BASELINE):
            yield self.styles[row], curve

    def _finish(self, figure: Figure, curves: pd.DataFrame, name: str, caption: str) -> Plot:
        drawing.legend(figure, _rows_of(curves), self.styles)
        drawing.save(figure, self.folder, name)
        return Plot(name, caption)


def _rows_of(frame: pd.DataFrame) -> list[Row]:
    return list(frame[ROW].itertuples(index=False, name=None))


def _divergence(curve: pd.DataFrame, over: str) -> float:
    """Where the first of the runs of a curve has no more values; the others' mean would hide it."""
    lasts = curve[curve["status"].eq("diverged") & ~curve["is_nan"]].groupby("run_id")[over].max()
    broken = curve.loc[curve["is_nan"], over]
    ends = [float(last) for last in lasts] + [float(first) - 1 for first in broken]
    return min(ends, default=math.inf)


def _write_at(axes: Axes, x: float, y: float, text: str, style: Style) -> None:
    """A word to the right of the end of a curve."""
    if not abs(y) < drawing.DRAWABLE:
        return
    axes.annotate(
        text,
        (x, y),
        xytext=(5, 0),
        textcoords="offset points",
        color=style.colour,
        va="center",
        fontsize=8,
    )


def _number(cell: Any) -> str:
    if cell.same_as:
        return same_words(cell.same_as)
    return str(estimate_of(cell)) if cell.n else cell.status


def _reads(pattern: str) -> str:
    return PATTERNS.get(pattern, pattern)


def _best_first(scores: pd.DataFrame) -> list[Row]:
    sign = 1 if scores["direction"].iloc[0] == "lower" else -1
    key = (sign * scores["mean"]).fillna(math.inf)
    return _rows_of(scores.assign(key=key).sort_values(["key", "same_as", "attention"]))
