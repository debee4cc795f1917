"""One table per pattern: mechanisms by task metrics, with every run that did not end well."""

import math
from typing import Any

import pandas as pd

from runners.report.render import Table
from runners.report.statistics import BROKEN, Estimate, notes_of
from runners.report.table import (
    BASELINE,
    CONTROL,
    MARKS,
    PATTERNS,
    ROW,
    TASK,
    known_patterns,
    row_name,
    task_name,
)

ARROWS = {"lower": "↓", "higher": "↑"}
NOT_RUN = "–"

Row = tuple[str, ...]
Cells = dict[tuple[Row, Row], Any]
"""A line of the scores, by (attention, variant, setting) and (*task, metric)."""


def leaderboards(
    scores: pd.DataFrame, name: str = "leaderboard", title: str = "Leaderboard"
) -> list[Table]:
    """One table for each pattern.

    Args:
        scores: From `quality`, or other `estimates`.
        name: Starts the names of the files.
        title: Starts the titles.
    """
    scores = with_ratios(scores)
    return [
        _table(
            f"{name}_{pattern}",
            f"{title}, {PATTERNS.get(pattern, pattern)}",
            scores[scores["pattern"] == pattern],
        )
        for pattern in known_patterns(scores)
    ]


def with_ratios(scores: pd.DataFrame) -> pd.DataFrame:
    """Add the column `ratio`: the mean over that of softmax in the same settings, or NaN."""
    cell = ["pattern", *TASK, "metric", "setting"]
    is_baseline = scores["attention"].eq(BASELINE) & scores["variant"].eq("")
    baseline = scores.loc[is_baseline, [*cell, "mean"]].rename(columns={"mean": "softmax"})
    joined = scores.merge(baseline, on=cell, how="left")
    joined["ratio"] = (joined["mean"] / joined["softmax"]).where(joined["softmax"] != 0)
    return joined.drop(columns="softmax")


def _table(name: str, title: str, scores: pd.DataFrame) -> Table:
    of_row, of_column = _tuples(scores[ROW]), _tuples(scores[[*TASK, "metric"]])
    cells: Cells = dict(zip(zip(of_row, of_column, strict=True), scores.itertuples(), strict=True))
    columns = list(dict.fromkeys(of_column))
    ranks = _ranks(columns, cells)
    twins = {row for (row, _), score in cells.items() if _same_as(score)}  # behind their like
    rows = sorted({row for row, _ in cells}, key=lambda r: (*_order(r, ranks), r in twins, r))
    several = _tasks_with_several_backbones(columns)
    best = frozenset(
        (rows.index(row), j + 1)
        for j, column in enumerate(columns)
        for row in _best(column, cells, ranks)
    )
    lines = [
        [row_name(*row), *(_cell(cells.get((row, column)), row) for column in columns)]
        for row in rows
    ]
    header = ["attention", *(_header(column, cells, rows, several) for column in columns)]
    return Table(
        name=name,
        title=title,
        header=header,
        lines=lines,
        best=best,
        notes=_notes(header, lines),
        data=scores.drop(columns="values").reset_index(drop=True),
    )


def _tuples(frame: pd.DataFrame) -> list[Row]:
    return list(frame.itertuples(index=False, name=None))


def _tasks_with_several_backbones(columns: list[Row]) -> set[Row]:
    backbones: dict[Row, set[str]] = {}
    for *task, backbone, _ in columns:
        backbones.setdefault(tuple(task), set()).add(backbone)
    return {task for task, names in backbones.items() if len(names) > 1}


def _header(column: Row, cells: Cells, rows: list[Row], several: set[Row]) -> str:
    suite, task, dataset, task_setting, backbone, metric = column
    among = 2 if (suite, task, dataset, task_setting) in several else 1
    name = task_name(task, dataset, task_setting, backbone, among)
    scores = [cells[row, column] for row in rows if (row, column) in cells]
    unit = f" ({scores[0].unit})" if scores[0].unit else ""
    return f"{name}|{metric}{unit} {ARROWS.get(scores[0].direction, '')}".rstrip()


def _ranks(columns: list[Row], cells: Cells) -> dict[tuple[Row, Row], int]:
    """The rank of each cell in its column; equal means share the better one."""
    ranks = {}
    for column in columns:
        scores = {
            row: score
            for (row, of), score in cells.items()
            if of == column and score.n and score.direction
        }
        for row, score in scores.items():
            sign = 1 if score.direction == "lower" else -1
            ranks[row, column] = 1 + sum(sign * s.mean < sign * score.mean for s in scores.values())
    return ranks


def _best(column: Row, cells: Cells, ranks: dict[tuple[Row, Row], int]) -> set[Row]:
    """The rows with the best mean of a column, and those that read the same in print."""
    scores = {row: cells[row, of] for row, of in ranks if of == column}
    first = [estimate_of(score) for row, score in scores.items() if ranks[row, column] == 1]
    return {
        row
        for row, score in scores.items()
        if any(estimate_of(score).reads_as(other) for other in first)
    }


def estimate_of(score: Any) -> Estimate:
    """The estimate in a line of `estimates`."""
    return Estimate(score.mean, score.half_width, score.low, score.high, score.n)


def _order(row: Row, ranks: dict[tuple[Row, Row], int]) -> tuple[float, float]:
    """Rows with the most scores first, then by mean rank."""
    own = [rank for (of, _), rank in ranks.items() if of == row]
    return (-len(own), sum(own) / len(own) if own else math.inf)


def _cell(score: Any, row: Row) -> str:
    if score is None:
        return NOT_RUN
    if not score.n:
        return score.status
    if same := _same_as(score):
        return same_words(same)
    text = str(estimate_of(score))
    if math.isfinite(score.ratio) and row[0] != BASELINE:
        text += f" ({score.ratio:.2f}×)"
    return f"{text} [{score.failures}]" if score.failures else text


def _same_as(score: Any) -> str:
    return getattr(score, "same_as", "")  # costs have no such column


def same_words(name: str) -> str:
    """What stands for the numbers of a line that is one with another."""
    return f"same as {name} here"


def _notes(header: list[str], lines: list[list[str]]) -> list[str]:
    text = " ".join(cell for line in lines for cell in line)
    notes = [
        "Bold: the best mean, and what reads the same. Rows: most results first, then by rank."
    ]
    notes += notes_of(text)
    if " same as " in f" {text}":
        notes.append(
            "same as …: all its validation and test scores are equal to the last bit, as with a "
            "window as long as the input; it counts once in an index."
        )
    if any(word in text for word in BROKEN):
        notes.append(f"{' or '.join(BROKEN)}: no mean, because those of the other runs hide it.")
    if "×)" in text:
        notes.append(f"(×): the value divided by that of {BASELINE} in the same settings.")
    notes += [
        f"{mark}: {meaning}; not to be compared with published numbers."
        for mark, meaning in MARKS.items()
        if mark in " ".join(header)
    ]
    if any(line[0] == CONTROL for line in lines):
        notes.append(f"{CONTROL}: the control that moves nothing between positions.")
    if any(cell == NOT_RUN for line in lines for cell in line):
        notes.append(f"{NOT_RUN}: not run.")
    return notes
