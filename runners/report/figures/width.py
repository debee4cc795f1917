"""Zoology's figure: accuracy over the width of the model, a panel for each length and load."""

import math

import pandas as pd
from matplotlib.axes import Axes

from runners.report import drawing
from runners.report.drawing import Row, Style
from runners.report.figures.canvas import (
    Canvas,
    Plot,
    curve,
    in_order,
    on_top,
    outer_labels,
    rows_of,
    rule_line,
)
from runners.report.published import mqar
from runners.report.render import file_name
from runners.report.table import PATTERNS, ROW, TASK, is_own, task_name
from runners.report.tuning import best_of_settings, without_width

METRIC = "accuracy"


def width_figures(canvas: Canvas, rows: pd.DataFrame, scores: pd.DataFrame) -> list[Plot]:
    """A figure per task and pattern of which several widths were run.

    Args:
        canvas: Where they go.
        rows: The tidy table.
        scores: From `quality`, for the trivial rules.
    """
    line = ["pattern", *TASK, *ROW]
    is_score = rows["command"].eq("train") & is_own(rows) & rows["status"].eq("ok")
    is_score &= rows["split"].eq("test") & rows["metric"].eq(METRIC) & rows["seq_len"].isna()
    best = best_of_settings(rows).drop(columns="embed_dim")
    found = rows[is_score & rows["value"].notna() & rows["embed_dim"].notna()].merge(best, on=line)
    # One of several settings was chosen: its words would part the line of its mechanism.
    found["setting"] = found["setting"].map(without_width).where(found["num_settings"].eq(1), "")
    plots = []
    of_figure = ["pattern", "suite", "task", "backbone"]
    for (pattern, _, task, backbone), own in found.groupby(of_figure, sort=False):
        widths = own.groupby(["dataset", "task_setting"])["embed_dim"].transform("nunique")
        if widths.gt(1).any():
            rules = scores[scores["rule"].ne("") & scores["task"].eq(str(task))]
            rules = rules[rules["pattern"].eq(str(pattern)) & rules["metric"].eq(METRIC)]
            names = (str(pattern), str(task), str(backbone))
            plots.append(_figure(canvas, names, own[widths > 1], rules))
    return plots


def _figure(
    canvas: Canvas, names: tuple[str, str, str], points: pd.DataFrame, rules: pd.DataFrame
) -> Plot:
    pattern, task, backbone = names
    panels = in_order(points.groupby(["dataset", "task_setting"]))
    theirs = mqar.published()
    theirs = theirs[theirs["attention"].isin(points["attention"])]
    theirs = theirs[theirs["dataset"].isin(points["dataset"]) & theirs["pattern"].eq(pattern)]
    theirs = theirs.assign(variant="", setting="", run_id="") if task == "mqar" else theirs[:0]
    rows = [*rows_of(points), *(rows_of(theirs) if len(theirs) else ())]
    looks = drawing.restyled(canvas.styles, rows)
    looks = {row: drawing.marked(look) for row, look in looks.items()}
    num_columns = len(panels) if len(theirs) else min(len(panels), 4)
    num_rows = 2 if len(theirs) else math.ceil(len(panels) / num_columns)
    figure, grid = drawing.panels(*(num_rows, num_columns), *(2.1, 1.9), names=looks, above=0.65)
    for axes in grid.flat[len(panels) * (2 if len(theirs) else 1) :]:
        axes.remove()
    widths = points["embed_dim"].unique()
    for i, (key, own) in enumerate(panels):
        dataset, task_setting = map(str, key)
        axes = grid.flat[i]
        _panel(axes, own, looks, widths)
        is_here = rules["dataset"].eq(dataset) & rules["task_setting"].eq(task_setting)
        rule_line(axes, rules[is_here])
        axes.set_title(task_name("", dataset, task_setting), loc="left")
        if len(theirs):
            _panel(grid[1, i], theirs[theirs["dataset"] == dataset], looks, widths)
            grid[1, i].set_title("published", loc="left")
    outer_labels(grid)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{METRIC} ↑")
    for axes in grid[-1, :]:
        axes.set_xlabel("width of the model")
    reads = PATTERNS.get(pattern, pattern)
    drawing.title(figure, f"{task}, {reads}: {METRIC} over the width")
    caption = f"{task}, {reads}: {METRIC} over the width of the model. Bands: range over seeds. "
    if points["num_settings"].gt(1).any():
        caption += "Of several settings the best by validation. "
    caption += "Dotted: the best trivial rule."
    if len(theirs):
        sources = "; ".join(sorted(theirs["source"].unique()))
        caption += f" Below: what was published, a single run each ({sources})."
    return canvas.finish(figure, file_name("width", pattern, task, backbone), caption, looks)


def _panel(axes: Axes, points: pd.DataFrame, looks: dict[Row, Style], widths: list[float]) -> None:
    for row in on_top(set(rows_of(points))):
        own = points[[each == row for each in rows_of(points)]]
        curve(axes, own, "embed_dim", looks[row])
    drawing.length_axis(axes, {*widths, *points["embed_dim"]})
    axes.set_ylim(-0.03, 1.05)
