"""One table per pattern: mechanisms by task metrics, with every run that did not end well."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from runners.report.grid import NOT_RUN, Column, Grid, Row
from runners.report.render import Table
from runners.report.rules import NOT_ABOVE, best_rule, is_above
from runners.report.scores import BROKEN
from runners.report.statistics import Estimate, notes_of
from runners.report.table import (
    BASELINE,
    CONTROL,
    MARKS,
    PATTERNS,
    RULE,
    TASK,
    known_patterns,
    row_name,
)

Ranks = Mapping[tuple[Row, Column], int]


def leaderboards(scores: pd.DataFrame) -> list[Table]:
    """One table for each pattern.

    Args:
        scores: From `quality`.
    """
    scores = with_ratios(scores[~has_no_place(scores)])
    return [
        _table(pattern, scores[scores["pattern"] == pattern]) for pattern in known_patterns(scores)
    ]


def has_no_place(frame: pd.DataFrame) -> pd.Series:
    """Whether each line is of a task without a place of the pattern: not even softmax can be there.

    Args:
        frame: With the columns pattern, `TASK`, attention and status.
    """
    place = ["pattern", *TASK]
    is_refused = frame["attention"].eq(BASELINE) & frame["status"].eq("unsupported")
    refused = set(frame.loc[is_refused, place].itertuples(index=False, name=None))
    places = frame[place].itertuples(index=False, name=None)
    return pd.Series([own in refused for own in places], index=frame.index, dtype=bool)


def with_ratios(scores: pd.DataFrame) -> pd.DataFrame:
    """Add the column `ratio`: the mean over that of softmax in the same settings, or NaN.

    A rule is no mechanism and has none.
    """
    cell = ["pattern", *TASK, "metric", "setting"]
    is_baseline = scores["attention"].eq(BASELINE) & scores["variant"].eq("")
    baseline = scores.loc[is_baseline, [*cell, "mean"]].rename(columns={"mean": "softmax"})
    joined = scores.merge(baseline, on=cell, how="left")
    is_ratio = joined["softmax"].ne(0) & joined["rule"].eq("")
    joined["ratio"] = (joined["mean"] / joined["softmax"]).where(is_ratio)
    return joined.drop(columns="softmax")


def _table(pattern: str, scores: pd.DataFrame) -> Table:
    grid = Grid(scores)
    of_rules = {row for (row, _), score in grid.cells.items() if score.rule}
    ranks = _ranks(grid, of_rules)
    twins = {row for (row, _), score in grid.cells.items() if score.same_as}  # behind their like
    rows = sorted(
        grid.rows, key=lambda row: (row in of_rules, *_order(row, ranks), row in twins, row)
    )
    best = frozenset(
        (rows.index(row), j + 1)
        for j, column in enumerate(grid.columns)
        for row in _best(column, grid, ranks)
        if row not in of_rules
    )
    rules = {column: best_rule(grid.column(column)) for column in grid.columns}
    lines = [
        [
            row_name(*row),
            *(_cell(grid.cells.get((row, column)), row, rules[column]) for column in grid.columns),
        ]
        for row in rows
    ]
    header = ["attention", *map(grid.header, grid.columns)]
    return Table(
        name=f"leaderboard_{pattern}",
        title=f"Leaderboard, {PATTERNS.get(pattern, pattern)}",
        header=header,
        lines=lines,
        best=best,
        num_apart=len(of_rules),
        notes=[*_notes(header, lines), *_rule_notes(header[1:], lines, list(rules.values()))],
        data=scores.drop(columns="values").reset_index(drop=True),
    )


def _ranks(grid: Grid, of_rules: set[Row]) -> Ranks:
    """The rank of each cell in its column; equal means share the better one.

    Mechanisms are ranked among themselves, and so are rules.
    """
    ranks = {}
    for column in grid.columns:
        scores = {
            row: score
            for row in grid.rows
            if (score := grid.cells.get((row, column))) and score.n and score.direction
        }
        for row, score in scores.items():
            sign = 1 if score.direction == "lower" else -1
            ranks[row, column] = 1 + sum(
                sign * other.mean < sign * score.mean
                for of, other in scores.items()
                if (of in of_rules) == (row in of_rules)
            )
    return ranks


def _best(column: Column, grid: Grid, ranks: Ranks) -> set[Row]:
    """The mechanisms with the best mean of a column, and those that read the same in print."""
    scores = {
        row: score
        for row, of in ranks
        if of == column and not (score := grid.cells[row, column]).rule
    }
    first = [estimate_of(score) for row, score in scores.items() if ranks[row, column] == 1]
    return {
        row
        for row, score in scores.items()
        if any(estimate_of(score).reads_as(other) for other in first)
    }


def estimate_of(score: Any) -> Estimate:
    """The estimate in a line of `estimates`."""
    return Estimate(score.mean, score.half_width, score.low, score.high, score.n)


def _order(row: Row, ranks: Ranks) -> tuple[float, float]:
    """Rows with the most scores first, then by mean rank."""
    own = [rank for (of, _), rank in ranks.items() if of == row]
    return (-len(own), sum(own) / len(own) if own else math.inf)


def _cell(score: Any, row: Row, rule: Any) -> str:
    if score is None:
        return "" if row[0].startswith(RULE) else NOT_RUN
    if not score.n:
        return score.status
    if score.same_as:
        return same_words(score.same_as)
    text = str(estimate_of(score))
    if rule is not None and not score.rule and not is_above(score, rule):
        text += NOT_ABOVE
    if math.isfinite(score.ratio) and row[0] != BASELINE:
        text += f" ({score.ratio:.2f}×)"
    return f"{text} [{score.failures}]" if score.failures else text


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


def _rule_notes(header: list[str], lines: list[list[str]], rules: list[Any]) -> list[str]:
    """What the rules are, and which of them stands behind the marks of each column."""
    if not any(rules):
        return []
    notes = [
        f"{RULE}…: what a rule that understands nothing reaches on the same test rows. It is no "
        "mechanism and has no rank."
    ]
    reached = [
        f"{rule.rule} ({name.replace('|', ' ')})"
        for j, (name, rule) in enumerate(zip(header, rules, strict=True), start=1)
        if rule is not None and any(NOT_ABOVE in line[j] for line in lines)
    ]
    if reached:
        notes.append(
            f"{NOT_ABOVE}: not above the best rule, given the interval: {'; '.join(reached)}."
        )
    return notes
