"""What each task took to train, in its own units; a ratio only where both ran in turns.

Two runs are of two moments of a machine, which may have been seven times as busy in one of them. So
no time is divided by that of another run, and none is ranked.
"""

import math
from typing import Any

import pandas as pd

from runners.report.leaderboard import ARROWS, NOT_RUN, estimate_of
from runners.report.render import Table
from runners.report.statistics import estimates, notes_of
from runners.report.table import (
    BASELINE,
    PATTERNS,
    ROW,
    TASK,
    known_patterns,
    row_name,
    task_name,
)

METRICS = ("step_time", "peak_memory", "parameters", "parameter_overhead")
RATIOS = {"step_time": "step_time_ratio"}
"""Where the ratio of a metric to the baseline's stands, if they were measured in turns."""


def tables(rows: pd.DataFrame) -> list[Table]:
    """One table for each pattern.

    Args:
        rows: The tidy table.
    """
    found = estimates(rows, rows["metric"].isin([*METRICS, *RATIOS.values()]))
    found = found[found["metric"].ne("")]
    return [
        _table(pattern, found[found["pattern"] == pattern]) for pattern in known_patterns(found)
    ]


def _table(pattern: str, found: pd.DataFrame) -> Table:
    keys = zip(_tuples(found[ROW]), _tuples(found[[*TASK, "metric"]]), strict=True)
    cells: dict[Any, Any] = dict(zip(keys, found.itertuples(), strict=True))
    shown = found[found["metric"].isin(METRICS)]
    columns = list(dict.fromkeys(_tuples(shown[[*TASK, "metric"]])))
    backbones = shown.groupby(TASK[:-1])["backbone"].nunique().to_dict()
    rows = sorted({row for row, _ in cells})
    lines = [[row_name(*row), *(_cell(cells, row, column) for column in columns)] for row in rows]
    header = []
    for suite, *task, metric in columns:
        of = shown[shown["metric"] == metric].iloc[0]
        unit = f" ({of['unit']})" if of["unit"] else ""
        name = task_name(*task, among=backbones[suite, *task[:-1]])
        header.append(f"{name}|{metric}{unit} {ARROWS.get(of['direction'], '')}".rstrip())
    return Table(
        name=f"training_cost_{pattern}",
        title=f"Cost of training, {PATTERNS.get(pattern, pattern)}",
        header=["attention", *header],
        lines=lines,
        notes=_notes(lines),
        data=found.drop(columns="values").reset_index(drop=True),
    )


def _tuples(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    return list(frame.itertuples(index=False, name=None))


def _cell(cells: dict[Any, Any], row: tuple[str, ...], column: tuple[str, ...]) -> str:
    score = cells.get((row, column))
    if score is None:
        return NOT_RUN
    if not score.n:
        return score.status
    text = str(estimate_of(score))
    *task, metric = column
    ratio = cells.get((row, (*task, RATIOS.get(metric, ""))))
    if ratio is not None and math.isfinite(ratio.mean) and row[0] != BASELINE:
        text += f" ({ratio.mean:.2f}×)"
    return f"{text} [{score.failures}]" if score.failures else text


def _notes(lines: list[list[str]]) -> list[str]:
    text = " ".join(cell for line in lines for cell in line)
    notes = ["Times of one column are of different moments; only what has (×) was compared."]
    if "×)" in text:
        notes.append(f"(×): over {BASELINE} in the same place, steps of both in turns, in one run.")
    return notes + notes_of(text)
