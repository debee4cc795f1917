"""What trivial rules reach, as scores beside those of the mechanisms, and who is not above them.

Every training run of a task records the same rules of the same rows, whatever its mechanism and
pattern: a rule counts once for each task and seed, and stands in the table of every pattern.
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from runners.report.statistics import bounds_of, estimate
from runners.report.table import ROW, TASK

NOT_ABOVE = "‡"
"""Marks a mean that a rule reaches too."""
SUMMARY = (
    *("is_monitored", "mean", "half_width", "low", "high", "n"),
    *("values", "status", "failures"),
)
"""What the columns of `scores.estimates` say of a cell."""


def rule_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """The scores of the trivial rules, with the columns of `estimates`, `same_as` and `rule`.

    Args:
        rows: The tidy table.
    """
    of_rules = rows["command"].eq("train") & rows["rule"].ne("") & rows["split"].eq("test")
    of_rules &= rows["seq_len"].isna()  # as the scores of mechanisms: a group of rows is no column
    found = rows[of_rules & rows["direction"].ne("")]
    columns = ["pattern", *TASK, "metric", "direction", "unit", *ROW]
    summaries = []
    for task, scores in found.groupby(TASK, sort=False):
        trained = rows["command"].eq("train") & (rows[TASK] == list(task)).all(axis=1)
        for pattern in rows.loc[trained, "pattern"].unique():
            # Those of the pattern's own runs, and of a seed that has none there, of any other.
            near = scores.assign(is_far=scores["pattern"].ne(pattern))
            near = near.sort_values("is_far", kind="stable")
            near = near.drop_duplicates(["rule", "metric", "seed"]).assign(pattern=pattern)
            for key, cell in near.groupby(columns, sort=False):
                of = {"rule": cell["rule"].iloc[0], "same_as": ""}
                summaries.append(dict(zip(columns, key, strict=True)) | _summary(cell) | of)
    return pd.DataFrame(summaries, columns=[*columns, *SUMMARY, "same_as", "rule"])


def _summary(cell: pd.DataFrame) -> dict[str, Any]:
    values = cell["value"].dropna()
    found = estimate(values, bounds_of(str(cell["metric"].iloc[0])))
    return vars(found) | {
        "is_monitored": False,
        "values": tuple(values),
        "status": "ok" if found.n else "no value",
        "failures": "",
    }


def best_rule(scores: Iterable[Any]) -> Any | None:
    """The best of the scores that are of rules, in one column of a table; None without any."""
    of_rules = [score for score in scores if score.rule and score.n]
    return max(of_rules, key=lambda score: _sign(score) * score.mean, default=None)


def is_above(score: Any, rule: Any) -> bool:
    """Whether a mechanism's whole interval is better than the rule's mean.

    Of one seed its value is all there is; of seeds that differ, the worse end of their interval
    (of two seeds, the worse of them) has to be better.
    """
    sign = _sign(score)
    ends = [sign * end for end in (score.mean, score.low, score.high) if end == end]
    return min(ends) > sign * rule.mean


def _sign(score: Any) -> int:
    return -1 if score.direction == "lower" else 1
