"""Whether patterns, and tasks, rank mechanisms alike: correlations of their Compositional Indices.

Source: Zhang et al., CAB, ICML 2023, arXiv:2210.07661, sections on pattern and task correlation.
Departs from it: a coefficient of fewer than five mechanisms is not shown (two always give 1 or -1),
each has its number of mechanisms and a bootstrap interval, and nothing is imputed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from runners.report.grid import NOT_RUN
from runners.report.index import averages, own_constants, own_scores, task_indices
from runners.report.published import lra, slips
from runners.report.published.cab import TASKS, read
from runners.report.render import Table
from runners.report.table import CONTROL, GENERATED, MARKS, PATTERNS, ROW, mark_of

ENOUGH = 5
"""Of fewer mechanisms no coefficient is shown."""
DRAWS = 2000
CAB_PATTERNS = {"noncausal_self": "NS", "causal_self": "CS", "noncausal_cross": "NC",
                "causal_cross": "CC"}  # fmt: skip
"""CAB's short names, in its order."""
LRA = "LRA"
"""The column of Long Range Arena among the patterns."""
PATTERN_TABLE, TASK_TABLE = "correlation_patterns", "correlation_tasks"


@dataclass(frozen=True)
class Correlation:
    """Pearson's coefficient of two columns over the mechanisms that both have.

    Attributes:
        one: The name of a column.
        other: That of another.
        n: The number of mechanisms.
        r: NaN where fewer than three are shared, or one column is constant.
        low: The lower end of the 95 % bootstrap interval.
        high: The upper end.
    """

    one: str
    other: str
    n: int
    r: float
    low: float
    high: float

    @property
    def is_shown(self) -> bool:
        """Whether it rests on enough mechanisms to be read."""
        return self.n >= ENOUGH and math.isfinite(self.r)


def pearson(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Pearson's coefficient over the last axis; NaN where a column is constant."""
    pair = [np.asarray(of, dtype=float) for of in (x, y)]
    is_constant = np.logical_or(*(np.ptp(of, axis=-1) == 0 for of in pair))
    a, b = (of - of.mean(axis=-1, keepdims=True) for of in pair)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.where(is_constant, np.nan, (a * b).sum(axis=-1) / np.where(is_constant, 1.0, scale))


def bootstrap(x: ArrayLike, y: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the coefficient, over mechanisms drawn with replacement.

    Draws in which a column is constant have no coefficient and are left out.
    """
    a, b = (np.asarray(of, dtype=float) for of in (x, y))
    drawn = np.random.default_rng(seed).integers(len(a), size=(DRAWS, len(a)))
    found = pearson(a[drawn], b[drawn])
    found = found[np.isfinite(found)]
    if not len(found):
        return math.nan, math.nan
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def correlations(columns: pd.DataFrame) -> list[Correlation]:
    """Of every two columns.

    Args:
        columns: A line for each mechanism; NaN where it has no value.
    """
    found = []
    for one, other in combinations(columns, 2):
        both = columns[[one, other]].dropna().to_numpy()
        n, (x, y) = len(both), both.T
        r = float(pearson(x, y)) if n > 2 else math.nan
        ends = bootstrap(x, y) if n >= ENOUGH and math.isfinite(r) else (math.nan, math.nan)
        found.append(Correlation(str(one), str(other), n, r, *ends))
    return found


@dataclass(frozen=True)
class Columns:
    """What is correlated.

    Attributes:
        values: A line for each mechanism and a column for each pattern, or task.
        marks: By the column, the mark of the data behind it (see `table.MARKS`).
    """

    values: pd.DataFrame
    marks: dict[str, str]

    def mark(self, *names: str) -> str:
        """The mark of the data behind columns, the generated first."""
        found = {self.marks.get(name, "") for name in names}
        return next((mark for mark in MARKS if mark in found), "")


def by_pattern(scores: pd.DataFrame) -> Columns:
    """The index of every mechanism by pattern over CAB's tasks, and LRA's mean accuracy.

    Args:
        scores: From `quality`.
    """
    tasks, marks = _task_indices(scores)
    values = averages(tasks).assign(name=lambda own: own["pattern"].map(CAB_PATTERNS))
    arena, mark = _arena(scores)
    of_lra = arena.mean(axis=1, skipna=False).rename(LRA)
    wide = _wide(values).join(of_lra, how="outer") if not arena.empty else _wide(values)
    of_patterns = {
        CAB_PATTERNS[pattern]: _worst(mark for (of, _), mark in marks.items() if of == pattern)
        for pattern in {of for of, _ in marks}
    }
    order = [name for name in (LRA, *CAB_PATTERNS.values()) if name in wide]
    return Columns(wide[order], of_patterns | {LRA: mark})


def by_task(scores: pd.DataFrame) -> Columns:
    """The index of every mechanism by pattern and task of CAB, and the accuracy by task of LRA.

    Args:
        scores: From `quality`.
    """
    tasks, marks = _task_indices(scores)
    names = tasks["pattern"].map(CAB_PATTERNS) + " " + tasks["task"].map(TASKS)
    arena, mark = _arena(scores)
    arena.columns = [f"{LRA} {name}" for name in arena]
    wide = arena.join(_wide(tasks.assign(name=names)), how="outer")
    order = [f"{short} {task}" for short in CAB_PATTERNS.values() for task in TASKS.values()]
    order = [name for name in (*arena, *order) if name in wide]
    of_tasks = {
        f"{CAB_PATTERNS[pattern]} {TASKS[task]}": mark for (pattern, task), mark in marks.items()
    }
    return Columns(wide[order], of_tasks | dict.fromkeys(map(str, arena), mark))


def _task_indices(scores: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple[str, str], str]]:
    """The indices of CAB's tasks in the population of the report, and the marks of their data."""
    kept = scores[
        scores["task"].isin(TASKS)
        & scores["pattern"].isin(CAB_PATTERNS)
        & (scores["n"] > 0)
        & scores["attention"].ne(CONTROL)
    ]
    own = own_scores(kept)
    own = own[own["same_as"].eq("")]  # a mechanism that is another's here is no second point
    population = own_constants(own)
    tasks = task_indices(own, population[population["sigma"] > 0])
    marks = {
        (str(pattern), str(task)): _worst(map(mark_of, cells["dataset"].unique()))
        for (pattern, task), cells in kept.groupby(["pattern", "task"])
    }
    return tasks, marks


def _arena(scores: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Mean accuracies of LRA's tasks, a line per mechanism, and the mark of their data."""
    own = scores[scores["suite"].eq("lra") & scores["metric"].eq("accuracy")]
    own = own[own["pattern"].eq("noncausal_self") & (own["n"] > 0) & own["rule"].eq("")]
    own = own[own["attention"].ne(CONTROL) & own["same_as"].eq("")]
    names = {task: name for name, (task, _) in reversed(lra.DATASETS.items())}
    named = own.assign(name=own["task"].map(names).fillna(own["task"]))
    wide = named.pivot_table(index=ROW, columns="name", values="mean", sort=False)
    return wide, _worst(map(mark_of, own["dataset"].unique()))


def _wide(indices: pd.DataFrame) -> pd.DataFrame:
    return indices.pivot_table(index=ROW, columns="name", values="index", sort=False)


def _worst(marks: Any) -> str:
    found = set(marks)
    return next((mark for mark in MARKS if mark in found), "")


def tables(scores: pd.DataFrame) -> list[Table]:
    """Of patterns and of tasks, ours beside CAB's; without two columns there is none.

    Args:
        scores: From `quality`.
    """
    made = []
    for name, what, columns in (
        (PATTERN_TABLE, "patterns", by_pattern(scores)),
        (TASK_TABLE, "tasks", by_task(scores)),
    ):
        found = correlations(columns.values)
        if any(one.n for one in found):
            made.append(_table(name, what, found, columns))
    return made


def published(name: str) -> dict[frozenset[str], dict[str, Any]]:
    """CAB's coefficients by the two columns, each with the `marks` of its slips.

    Args:
        name: `PATTERN_TABLE` or `TASK_TABLE`.
    """
    if name == PATTERN_TABLE:
        found = read("pattern_correlation").rename(
            columns={"row_label_as_printed": "one", "column_label_as_printed": "other"}
        )
        is_exchanged = found["one"].isin([LRA, "NS"]) & found["other"].ne("NS")
        found["has_label_slip"] = is_exchanged
        # What was recomputed for the label that is printed is of the other.
        right = {LRA: "NS", "NS": LRA}
        again = ["n_attentions_recomputed", "recomputed_r"]
        exchanged = found[is_exchanged].assign(one=found["one"].map(right))
        found = found.drop(columns=again).merge(
            pd.concat([found[~is_exchanged], exchanged])[["one", "other", *again]],
            on=["one", "other"],
        )
        found["is_imputed"] = False
    else:
        found = read("task_correlation").rename(columns={"task_a": "one", "task_b": "other"})
        found["has_label_slip"] = False
        found["is_imputed"] = found["comment"].fillna("").str.startswith("differs")
    shared = found["n_attentions_recomputed"]
    few = (found["one"].eq("CS") & found["other"].isin(["NC", "CC"])) | shared.le(slips.FEW)
    found["num_shared"] = shared.where(~few, slips.FEW)
    known: list[dict[str, Any]] = found.to_dict("records")  # type: ignore[assignment]
    return {
        frozenset((row["one"], row["other"])): row | {"marks": slips.marks(slips.CORRELATION, row)}
        for row in known
    }


def _table(name: str, what: str, found: Sequence[Correlation], columns: Columns) -> Table:
    theirs = published(name)
    lines, data = [], []
    for one in found:
        mark = columns.mark(one.one, one.other)
        their = None if mark == GENERATED else theirs.get(frozenset((one.one, one.other)))
        lines.append([one.one, one.other, told(one, mark), str(one.n), *_told_published(their)])
        data.append(vars(one) | _numbers(their))
    has_published = any(line[4] != NOT_RUN for line in lines)
    width = 6 if has_published else 4
    shown = {columns.mark(one.one, one.other) for one in found} - {""}
    return Table(
        name=name,
        title=f"Correlation of {what}",
        header=["", "with", "ours", "n", "CAB", "CAB, recomputed (n)"][:width],
        lines=[line[:width] for line in lines],
        num_words=2,
        data=pd.DataFrame(data),
        notes=[
            "Pearson's r of the Compositional Index, in this report's own population, over the n "
            f"mechanisms that both have, without {CONTROL}; of {LRA}, of the accuracy.",
            f"{NOT_RUN}: fewer than {ENOUGH} mechanisms, or no spread. [ ]: 95 % bootstrap "
            "interval over mechanisms.",
            f"{', '.join(f'{short} {PATTERNS[name]}' for name, short in CAB_PATTERNS.items())}.",
            *([f"{mark}: {MARKS[mark]}." for mark in MARKS if mark in shown]),
            *slips.footnotes(line[4] for line in lines if has_published),
        ],
    )


def told(one: Correlation, mark: str = "") -> str:
    """`0.85 [0.31, 0.98]`, blank where it rests on too few."""
    if not one.is_shown:
        return NOT_RUN
    return f"{one.r:.2f} [{one.low:.2f}, {one.high:.2f}] {mark}".rstrip()


def _told_published(their: dict[str, Any] | None) -> list[str]:
    if their is None:
        return [NOT_RUN, NOT_RUN]
    again, n = str(their["recomputed_r"]).split()[0], their["n_attentions_recomputed"]
    recomputed = NOT_RUN if again == "nan" else f"{float(again):.2f} ({n:g})"
    return [f"{their['pearson_r']:.2f}{their['marks']}", recomputed]


def _numbers(their: dict[str, Any] | None) -> dict[str, Any]:
    if their is None:
        return {"published": math.nan, "reading_uncertainty": math.nan, "source": "", "comment": ""}
    return {
        "published": their["pearson_r"],
        "reading_uncertainty": their["reading_uncertainty"],
        "source": their["source"],
        "comment": slips.words(their["marks"]),
    }
