"""Does a task need attention? Softmax against `none`, which moves nothing between positions.

Source: Zhang et al., CAB, ICML 2023, arXiv:2210.07661, "benefit of attention".
Departs from it: beside the two indices, which need a population, the ratio of the scores of both
with its interval over the seeds; in every pattern that was run so, not in noncausal self alone.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from runners.report.grid import NOT_RUN
from runners.report.index import own_constants, own_scores, task_indices
from runners.report.published.cab import TASKS, read
from runners.report.render import Table
from runners.report.statistics import Estimate, estimate, notes_of
from runners.report.table import (
    BASELINE,
    CONTROL,
    GENERATED,
    MARKS,
    PATTERNS,
    TASK,
    known_patterns,
    mark_of,
)

WITHOUT = "without attention"
"""The variant in CAB's file."""
FLOOR = -2.5
"""Where the axis of CAB's figure ends."""


@dataclass(frozen=True)
class Benefit:
    """What one task loses without attention.

    Attributes:
        pattern: Where the attention is.
        task: Our name.
        mark: Of the data behind it (see `table.MARKS`).
        log_ratio: Of the score without attention over that with softmax, turned so that below 0 is
            worse, the mean over metrics, data sets and backbones; estimated over the seeds.
        logs: The same of each seed.
        softmax: Its index in the report's own population; NaN without one.
        none: That of `none`.
        published: CAB's two indices, softmax first; NaN where it has none, or on generated data.
        comment: What its file says of them.
    """

    pattern: str
    task: str
    mark: str
    log_ratio: Estimate
    logs: tuple[float, ...]
    softmax: float
    none: float
    published: tuple[float, float]
    comment: str


def benefits(rows: pd.DataFrame, scores: pd.DataFrame) -> list[Benefit]:
    """Of every pattern and task of CAB that was run with softmax and with `none`.

    Args:
        rows: The tidy table, in which the scores of one seed can be paired.
        scores: From `quality`.
    """
    # A cell of which a run diverged has no mean, and those of its seeds are no better.
    whole = scores[scores["task"].isin(TASKS) & (scores["n"] > 0)]
    counted = own_scores(whole)
    pair = counted[counted["attention"].isin([BASELINE, CONTROL]) & counted["variant"].eq("")]
    metrics = pair[["pattern", "task", "metric", "attention", "setting"]].drop_duplicates()
    paired = _log_ratios(rows, metrics)
    indices = _indices(counted)
    found = []
    for pattern in known_patterns(whole):
        for task in TASKS:
            own = paired[paired["pattern"].eq(pattern) & paired["task"].eq(task)]
            if own.empty:
                continue
            logs = _by_seed(own)
            marks = {mark_of(dataset) for dataset in own["dataset"]}
            mark = next((mark for mark in MARKS if mark in marks), "")
            theirs, comment = _published(pattern, task, mark)
            found.append(
                Benefit(
                    pattern,
                    task,
                    mark,
                    estimate(logs),
                    tuple(logs),
                    *(indices.get((pattern, task, who), math.nan) for who in (BASELINE, CONTROL)),
                    published=theirs,
                    comment=comment,
                )
            )
    return found


def _log_ratios(rows: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """A line for each score of each seed that both have, with the column `log`."""
    is_score = rows["command"].eq("train") & rows["split"].eq("test") & rows["rule"].eq("")
    is_score &= rows["seq_len"].isna() & rows["step"].isna() & rows["variant"].eq("")
    own = rows[is_score & rows["value"].ge(0)].merge(metrics, on=list(metrics))
    place = ["pattern", *TASK, "metric", "direction", "setting", "seed"]
    softmax = own[own["attention"].eq(BASELINE)][[*place, "value"]]
    none = own[own["attention"].eq(CONTROL)][[*place, "value"]]
    both = none.merge(softmax, on=place, suffixes=("", "_softmax"))
    with np.errstate(divide="ignore"):
        log = both["value"].map(np.log) - both["value_softmax"].map(np.log)
    return both.assign(log=log.where(both["direction"].eq("higher"), -log))


def _by_seed(own: pd.DataFrame) -> list[float]:
    """The mean of the logarithms of each seed that has every one of them."""
    by_seed = own.groupby("seed")["log"]
    sizes = by_seed.size()
    return list(by_seed.mean()[sizes.eq(sizes.max())].dropna())


def _indices(counted: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """The index of softmax and none by pattern and task, in the report's own population."""
    population = own_constants(counted)
    indices = task_indices(counted, population[population["sigma"] > 0])
    plain = indices[indices["variant"].eq("") & indices["setting"].eq("")]
    keys = plain[["pattern", "task", "attention"]].itertuples(index=False, name=None)
    return dict(zip(keys, plain["index"], strict=True))


def _published(pattern: str, task: str, mark: str) -> tuple[tuple[float, float], str]:
    theirs = read("benefit_of_attention")
    theirs = theirs[theirs["pattern"].eq(pattern) & theirs["task"].eq(TASKS[task])]
    if theirs.empty or mark == GENERATED:
        return (math.nan, math.nan), ""
    by = theirs.set_index("variant")
    comments = [text for text in theirs["comment"].fillna("") if text]
    return (float(by["ci"]["vanilla"]), float(by["ci"][WITHOUT])), "; ".join(comments)


def table(found: list[Benefit]) -> Table | None:
    """A line for each pattern and task; None without one."""
    if not found:
        return None
    has_index = any(math.isfinite(one.none) for one in found)
    has_theirs = any(math.isfinite(one.published[0]) for one in found)
    header = ["pattern", "task", f"{CONTROL} / {BASELINE}"]
    header += [f"index|{BASELINE}", f"index|{CONTROL}", "index|Δ"] if has_index else []
    header += [f"CAB|{BASELINE}", "CAB|without", "CAB|Δ"] if has_theirs else []
    lines = []
    for one in found:
        line = [PATTERNS.get(one.pattern, one.pattern), f"{one.task} {one.mark}".strip()]
        line.append(ratio_words(one.log_ratio))
        line += _three(one.softmax, one.none, "+.3f") if has_index else []
        line += _at_floor(_three(*one.published, "+.2f"), one) if has_theirs else []
        lines.append(line)
    data = [
        {
            "pattern": one.pattern,
            "task": one.task,
            "mark": one.mark,
            "ratio": math.exp(one.log_ratio.mean),
            "low": math.exp(one.log_ratio.low),
            "high": math.exp(one.log_ratio.high),
            "n": one.log_ratio.n,
            "index_softmax": one.softmax,
            "index_none": one.none,
            "published_softmax": one.published[0],
            "published_none": one.published[1],
            "comment": one.comment,
        }
        for one in found
    ]
    notes = [
        f"{CONTROL} / {BASELINE}: the score without attention over that with softmax, of the same "
        "seed, turned so that below 1 is worse; the geometric mean over metrics, data sets and "
        "backbones, with the 95 % interval over the seeds.",
        *notes_of(" ".join(line[2] for line in lines)),
    ]
    if has_index:
        notes.append("index: in this report's own population, of which none is no member.")
    if has_theirs:
        notes.append(
            "CAB: digitised from its figure, ± 0.04, whose axis ends at -2.5; of PCC and LSTF it "
            "has noncausal self nowhere else."
        )
    notes += [f"{m}: {MARKS[m]}." for m in MARKS if any(one.mark == m for one in found)]
    return Table(
        name="benefit_of_attention",
        title="Benefit of attention",
        header=header,
        lines=lines,
        num_words=2,
        data=pd.DataFrame(data),
        notes=notes,
    )


def ratio_words(log_ratio: Estimate) -> str:
    """`0.42× [0.35, 0.51]` of three seeds or more; the range of two; `†` behind a single one."""
    if not log_ratio.n:
        return NOT_RUN
    mean, low, high = (_times(end) for end in (log_ratio.mean, log_ratio.low, log_ratio.high))
    if log_ratio.n == 1:
        return f"{mean}†"
    return f"{mean} ({low} … {high})" if log_ratio.n == 2 else f"{mean} [{low}, {high}]"


def _times(log: float) -> str:
    value = math.exp(log)
    return f"{value:.3f}×" if value < 0.1 else f"{value:.2f}×"


def _at_floor(numbers: list[Any], one: Benefit) -> list[Any]:
    """CAB's numbers, of which what lies at the end of its axis may be lower."""
    is_cut = one.published[1] <= FLOOR
    return [numbers[0], *(f"≤ {number}" if is_cut else number for number in numbers[1:])]


def _three(softmax: float, none: float, form: str) -> list[Any]:
    numbers = (softmax, none, none - softmax)
    return [NOT_RUN if math.isnan(number) else format(number, form) for number in numbers]
