"""Estimates laid out as a table: a line per mechanism, a column per task and metric."""

from typing import Any

import pandas as pd

from runners.report.table import ROW, TASK, task_name

ARROWS = {"lower": "↓", "higher": "↑"}
NOT_RUN = "–"

Row = tuple[str, ...]
"""(attention, variant, setting)."""
Column = tuple[str, ...]
"""(*task, metric)."""


class Grid:
    """The cells of one pattern.

    Args:
        scores: From `scores.estimates`.

    Attributes:
        cells: A line of `scores`, by row and column.
        columns: In the order of `scores`.
        rows: Sorted.
    """

    def __init__(self, scores: pd.DataFrame) -> None:
        of_row = list(scores[ROW].itertuples(index=False, name=None))
        of_column = list(scores[[*TASK, "metric"]].itertuples(index=False, name=None))
        keys = zip(of_row, of_column, strict=True)
        self.cells: dict[tuple[Row, Column], Any] = dict(
            zip(keys, scores.itertuples(), strict=True)
        )
        self.columns: list[Column] = list(dict.fromkeys(of_column))
        self.rows: list[Row] = sorted(set(of_row))
        self.num_backbones = scores.groupby(TASK[:-1])["backbone"].nunique().to_dict()

    def column(self, column: Column) -> list[Any]:
        """The cells of a column that are there."""
        return [self.cells[row, column] for row in self.rows if (row, column) in self.cells]

    def header(self, column: Column) -> str:
        """`mqar MQAR-L64-N4|accuracy ↑`."""
        *task, metric = column
        score = self.column(column)[0]
        unit = f" ({score.unit})" if score.unit else ""
        name = task_name(*task[1:], among=self.num_backbones[tuple(task[:-1])])
        return f"{name}|{metric}{unit} {ARROWS.get(score.direction, '')}".rstrip()
