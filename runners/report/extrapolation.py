"""A language model over shorter and longer contexts than it was trained on, ours beside CAB's."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from runners.report.grid import NOT_RUN
from runners.report.published import slips
from runners.report.published.cab import TASKS, read
from runners.report.render import Table, file_name
from runners.report.statistics import bounds_of, estimate, notes_of
from runners.report.table import (
    GENERATED,
    PATTERNS,
    ROW,
    TASK,
    is_own,
    known_patterns,
    mark_of,
    row_name,
    task_name,
)

METRIC = "perplexity"
TRAINED = 8192
"""The length at which CAB's models were trained."""


def over_lengths(rows: pd.DataFrame) -> pd.DataFrame:
    """The test scores at several context lengths, without lines of which a run diverged.

    Args:
        rows: The tidy table.
    """
    line = ["pattern", *TASK, *ROW]
    is_score = rows["seq_len"].notna() & rows["split"].eq("test") & rows["status"].eq("ok")
    is_broken = rows["status"].eq("diverged").groupby([rows[key] for key in line])
    is_score &= rows["command"].eq("train") & is_own(rows) & ~is_broken.transform("any")
    found = rows[is_score & rows["direction"].ne("")]
    lengths = found.groupby(["pattern", *TASK, "metric"])["seq_len"].transform("nunique")
    return found[lengths > 1]


def trained_length(data_settings: str) -> int | None:
    """The context length of training, where the settings of the data have one."""
    settings = dict(part.split("=", 1) for part in data_settings.split("; ") if "=" in part)
    told = settings.get("seq_len", "")
    return int(told) if told.isdecimal() else None


def tables(rows: pd.DataFrame) -> list[Table]:
    """Perplexity over the context length, a table for each pattern and setting of the task.

    Args:
        rows: The tidy table.
    """
    scores = over_lengths(rows)
    scores = scores[scores["task"].map(TASKS).eq("LM") & scores["metric"].eq(METRIC)]
    return [
        _table(pattern, [str(part) for part in task], own)
        for pattern in known_patterns(scores)
        for task, own in scores[scores["pattern"] == pattern].groupby(TASK, sort=False)
    ]


def _table(pattern: str, task: list[str], scores: pd.DataFrame) -> Table:
    is_beside = not task[2].endswith(GENERATED) and pattern == slips.CAUSAL
    theirs = list(_published()) if is_beside else []
    trained = trained_length(scores["data_settings"].iloc[0])
    lengths = sorted({int(length) for length in scores["seq_len"]} | _lengths(theirs))
    grouped: list[tuple[Any, pd.DataFrame]] = list(scores.groupby(ROW))
    ours = []
    for row, own in grouped:
        by_length = own.groupby("seq_len")["value"]
        found = {int(at): estimate(of, bounds_of(METRIC)) for at, of in by_length}  # type: ignore[call-overload]
        ours.append((row_name(*row), found))
    lines = [
        [name, "ours", *(str(of[length]) if length in of else NOT_RUN for length in lengths)]
        for name, of in ours
    ]
    lines += [
        [name, "CAB", *(of[length]["told"] if length in of else NOT_RUN for length in lengths)]
        for name, of in theirs
    ]
    data = [
        {"attention": name, "source": "ours", "seq_len": length, **vars(of)}
        for name, by_length in ours
        for length, of in by_length.items()
    ]
    data += [
        {"attention": name, "seq_len": length} | {key: of[key] for key in of if key != "told"}
        for name, by_length in theirs
        for length, of in by_length.items()
    ]
    name = task_name("", task[2], task[3])
    header = [f"{length:,}{' (trained)' if length == trained else ''}" for length in lengths]
    notes = ["Shorter than trained: interpolation; longer: extrapolation. Means over seeds."]
    if theirs:
        notes.append(
            "CAB: digitised from its figure, ± 0.15, trained at 8,192 tokens. It cuts the stream "
            "into blocks of each length, so that short ones have more tokens without a past; ours "
            "scores the same tokens at every length."
        )
    if theirs and mark_of(task[2]):
        notes.append(f"{mark_of(task[2])}: ours is on a part of the data set only.")
    told = [cell for line in lines for cell in line[2:]]
    return Table(
        name=file_name("extrapolation", pattern, *task[1:]),
        title=f"{METRIC.capitalize()} ↓ over the context length, {name}, "
        f"{PATTERNS.get(pattern, pattern)}",
        header=["attention", "source", *header],
        lines=lines,
        num_words=2,
        num_apart=len(theirs),
        data=pd.DataFrame(data),
        notes=[*notes, *notes_of(" ".join(told)), *slips.footnotes(told)],
    )


def _lengths(theirs: list[tuple[str, dict[int, dict[str, Any]]]]) -> set[int]:
    return {length for _, of in theirs for length in of}


def _published() -> Iterator[tuple[str, dict[int, dict[str, Any]]]]:
    """CAB's mechanisms, and by the length the value, what is told of it and its comment."""
    for attention, own in read("extrapolation").groupby("attention"):
        found = {}
        for row in own.to_dict("records"):
            number = {"pattern": slips.CAUSAL, "task": "LM", "attention": attention}
            is_score = row["context_length"] == TRAINED
            marks = slips.marks(slips.SCORE, number) if is_score else ""
            comment = row["comment"] if isinstance(row["comment"], str) else ""
            blank = "> 100" if "above the axis" in comment else NOT_RUN
            found[row["context_length"]] = {
                "told": blank if pd.isna(row["value"]) else f"{row['value']:g}{marks}",
                "source": row["source"],
                "mean": row["value"],
                "comment": f"{comment} {slips.words(marks)}".strip(),
            }
        yield str(attention), found
