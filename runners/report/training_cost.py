"""What each task took to train, in its own units; a ratio only where both ran in turns.

Two runs are of two moments of a machine, which may have been seven times as busy in one of them. So
no time is divided by that of another run, and none is ranked.
"""

import math

import pandas as pd

from runners.report.grid import NOT_RUN, Column, Grid, Row
from runners.report.leaderboard import estimate_of
from runners.report.render import Table
from runners.report.scores import estimates
from runners.report.statistics import notes_of
from runners.report.table import BASELINE, PATTERNS, known_patterns, row_name

METRICS = ("step_time", "peak_memory", "parameters", "parameter_overhead", "state_elements")
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
    grid = Grid(found)
    columns = [column for column in grid.columns if column[-1] in METRICS]
    lines = [
        [row_name(*row), *(_cell(grid, row, column) for column in columns)] for row in grid.rows
    ]
    return Table(
        name=f"training_cost_{pattern}",
        title=f"Cost of training, {PATTERNS.get(pattern, pattern)}",
        header=["attention", *map(grid.header, columns)],
        lines=lines,
        notes=_notes(lines),
        data=found.drop(columns="values").reset_index(drop=True),
    )


def _cell(grid: Grid, row: Row, column: Column) -> str:
    score = grid.cells.get((row, column))
    if score is None:
        return NOT_RUN
    if not score.n:
        return score.status
    text = str(estimate_of(score))
    ratio = grid.cells.get((row, (*column[:-1], RATIOS.get(column[-1], ""))))
    if ratio is not None and math.isfinite(ratio.mean) and row[0] != BASELINE:
        text += f" ({ratio.mean:.2f}×)"
    return f"{text} [{score.failures}]" if score.failures else text


def _notes(lines: list[list[str]]) -> list[str]:
    text = " ".join(cell for line in lines for cell in line)
    notes = ["Times of one column are of different moments; only what has (×) was compared."]
    if "×)" in text:
        notes.append(f"(×): over {BASELINE} in the same place, steps of both in turns, in one run.")
    return notes + notes_of(text)
