"""Mechanisms that are one and the same in a task, as a window as long as the input is softmax.

They are recognised by their numbers: every validation and test score of every seed is equal to the
last bit, which two different mechanisms do not manage over a training run.
"""

import math
from typing import Any

import pandas as pd

from runners.report.table import BASELINE, CONTROL, ROW, TASK, is_own, row_name

NUM_TELLING = 3
"""How many different scores must agree: an accuracy of 1.0 that two reach says nothing."""
CELL = ["pattern", *TASK]
PLACE = ["metric", "split", "seq_len", "step"]

Scores = frozenset[tuple[Any, ...]]


def twins(rows: pd.DataFrame) -> pd.DataFrame:
    """Which lines of which tasks have all their scores in common with another.

    Args:
        rows: The tidy table.

    Returns:
        The columns pattern, `TASK`, `ROW` and same_as: the name of the other line, softmax if it is
        among them. That line itself is not in the table.
    """
    is_score = rows["split"].isin(["validation", "test"]) & rows["direction"].ne("")
    is_run = rows["command"].eq("train") & rows["status"].eq("ok") & is_own(rows)
    scores = rows[is_score & is_run]
    found = []
    for cell, of_cell in scores.groupby(CELL, sort=False):
        firsts: dict[Any, dict[str, Scores]] = {}
        lines = list(of_cell.groupby(ROW, sort=False))
        for row, of_row in sorted(lines, key=lambda item: _order(item[0])):
            own = _by_seed(of_row)
            same = next((first for first in firsts if _are_same(own, firsts[first])), None)
            if same is None:
                firsts[row] = own
            else:
                found.append([*cell, *row, row_name(*same)])
    return pd.DataFrame(found, columns=[*CELL, *ROW, "same_as"]).astype(object)


def _order(row: Any) -> tuple[bool, bool, Any]:
    return (row[0] != BASELINE or row[1] != "", row[0] == CONTROL, row)


def _by_seed(scores: pd.DataFrame) -> dict[str, Scores]:
    return {
        str(seed): frozenset(
            of[[*PLACE, "value"]].astype(object).fillna("").itertuples(index=False, name=None)
        )
        for seed, of in scores.groupby("seed")
    }


def _are_same(one: dict[str, Scores], other: dict[str, Scores]) -> bool:
    seeds = one.keys() & other.keys()
    if not seeds or any(one[seed] != other[seed] for seed in seeds):
        return False
    values = {score[-1] for seed in seeds for score in one[seed]} - {""}
    return len([value for value in values if math.isfinite(value) and value % 1]) >= NUM_TELLING
