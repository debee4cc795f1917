"""A table of ours beside what was published on the same task, data set, pattern and metric."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from runners.report.grid import ARROWS, NOT_RUN
from runners.report.leaderboard import estimate_of, same_words
from runners.report.published import slips
from runners.report.render import Table
from runners.report.statistics import notes_of
from runners.report.table import (
    BASELINE,
    GENERATED,
    MARKS,
    PATTERNS,
    mark_of,
    row_names,
)

FOLDER = Path(__file__).resolve().parents[3] / "results" / "published"
"""See the README there for the sources."""
PLACE = ["pattern", "task", "backbone", "dataset", "metric"]
"""Where two scores can stand beside each other."""
SHOWN = (
    *(*PLACE, "direction", "attention", "name", "mean", "half_width", "low", "high", "n"),
    *("status", "ratio", "value", "ratio_published", "source", "comment"),
)


def read_csv(name: str) -> pd.DataFrame:
    """A file of published numbers; an empty cell is NaN in a column of numbers."""
    return pd.read_csv(FOLDER / name, keep_default_na=False, na_values=[""])


def comparable(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores that may stand beside published ones, with their `name` and `mark`.

    Never those of data that stand in for others, whatever else is said of them.
    """
    kept = scores[~scores["dataset"].str.endswith(GENERATED)].copy()
    return kept.assign(name=row_names(kept), mark=kept["dataset"].map(mark_of))


def table(
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    *,
    name: str,
    title: str,
    notes: Sequence[str],
    one_edition: Sequence[str] = PLACE,
) -> Table | None:
    """A line for each score, of either side or of both; None if no place has both.

    Args:
        ours: From `comparable`, in the names of `theirs`, with the column `ratio`.
        theirs: The columns `PLACE`, attention (in our names), direction, value, source, comment;
            and perhaps `marks`, the letters of the slips that touch the value.
        notes: What the reader must know of these.
        one_edition: What published scores share that have one softmax.
    """
    theirs = _with_softmax_ratio(theirs, list(one_edition))
    ours = ours.merge(theirs[PLACE].drop_duplicates(), on=PLACE)
    if ours.empty:
        return None
    here = ours[[*PLACE, "mark"]].drop_duplicates()
    both = ours.merge(
        theirs.merge(here, on=PLACE),
        on=[*PLACE, "mark", "attention", "direction"],
        how="outer",
        suffixes=("", "_published"),
    )
    both["name"] = both["name"].fillna(both["attention"])
    both["dataset"] += both["mark"]
    both["n"] = both["n"].fillna(0).astype(int)
    both["marks"] = both["marks"].fillna("")
    both = both.sort_values([*PLACE, "value", "name"], key=_sorted_as)
    among = both.groupby(["task", "dataset"])["backbone"].transform("nunique")
    both["backbone_shown"] = both["backbone"].where(among > 1, "")
    lines = [_line(row) for row in both.itertuples()]
    return Table(
        name=name,
        title=title,
        header=[
            *("task", "pattern", "metric", "attention", "ours", "published"),
            *("ours / softmax", "published / softmax", "source"),
        ],
        lines=lines,
        num_words=4,
        data=_with_slips(both)[list(SHOWN)],
        notes=[
            *notes,
            *slips.footnotes(both["marks"]),
            f"{NOT_RUN}: not run, or not published.",
            *notes_of(" ".join(line[4] for line in lines)),
            *mark_notes(both["mark"]),
        ],
    )


def _sorted_as(column: pd.Series) -> pd.Series:
    """Patterns in the order of the report, and the numbers in a data set's name as numbers."""
    if column.name == "pattern":
        return column.map(list(PATTERNS).index)
    if column.name == "dataset":
        return column.str.replace(r"\d+", lambda found: found[0].zfill(9), regex=True)
    return column


def mark_notes(marks: pd.Series) -> list[str]:
    """What the marks of data sets mean beside published numbers."""
    return [
        f"{mark}: ours is on {MARKS[mark]}; only the columns of ratios may be read side by side."
        for mark in sorted(set(marks) - {""})
    ]


def _with_softmax_ratio(scores: pd.DataFrame, one_edition: list[str]) -> pd.DataFrame:
    baseline = scores[scores["attention"] == BASELINE]
    baseline = baseline[[*one_edition, "value"]].rename(columns={"value": "softmax"})
    joined = scores.merge(baseline, on=one_edition, how="left")
    joined["marks"] = joined.get("marks", "")
    joined["ratio_published"] = joined["value"] / joined["softmax"]
    return joined.drop(columns="softmax")


def _with_slips(both: pd.DataFrame) -> pd.DataFrame:
    """The numbers with what is wrong with a published one as its comment."""
    told = both["comment"].fillna("") + " " + both["marks"].map(slips.words)
    return both.assign(comment=told.str.strip())


def _line(row: Any) -> list[str]:
    ours = str(estimate_of(row)) if row.n else row.status
    if isinstance(row.same_as, str) and row.same_as:
        ours = same_words(row.same_as)
    comment = f"; {row.comment}" if isinstance(row.comment, str) and row.comment else ""
    return [
        " ".join(filter(None, (row.task, row.dataset, row.backbone_shown))),
        row.pattern,
        f"{row.metric} {ARROWS[row.direction]}",
        row.name,
        ours if isinstance(ours, str) else NOT_RUN,
        NOT_RUN if math.isnan(row.value) else f"{row.value:g}{row.marks}",
        NOT_RUN if math.isnan(row.ratio) else f"{row.ratio:.2f}×",
        NOT_RUN if math.isnan(row.ratio_published) else f"{row.ratio_published:.2f}×",
        f"{row.source}{comment}" if isinstance(row.source, str) else "",
    ]
