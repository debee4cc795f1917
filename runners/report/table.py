"""Records to one tidy table: one row per measurement, and one for each run that measured nothing.

Everything in a report is computed from this table. Runs whose settings differ are told apart here,
once, so that no later step can average them as if they were seeds.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from runners.records import Measurement, Record
from runners.report.differences import Differences, data_settings, differences, flattened, one_line

BASELINE = "softmax"
CONTROL = "none"
"""Moves nothing between positions: scored like the others, but of no population."""
GENERATED = "-synthetic"
"""Ends the name of a dataset that is a puzzle of ours: no published number stands beside it."""
MARKS = {
    GENERATED: "generated stand-in data",
    "-sample": "a part of the data set only",
}
"""How a dataset ends whose numbers are not to be compared with published ones."""

PATTERNS = {
    "noncausal_self": "noncausal self",
    "causal_self": "causal self",
    "noncausal_cross": "noncausal cross",
    "causal_cross": "causal cross",
    "all": "every place of the backbone",
}
"""The values of the column `pattern`, in the order of the report, and how they read."""

LABELS = (
    *("suite", "task", "dataset", "backbone", "attention", "pattern"),
    *("world_size", "num_threads", "device", "dtype", "seed"),
)
COLUMNS = (
    *("suite", "task", "dataset", "task_setting", "backbone", "attention", "variant", "setting"),
    *("rule", "embed_dim", "pattern"),
    *("seq_len", "world_size", "num_threads", "device", "dtype", "seed"),
    *("metric", "value", "is_nan", "unit"),
    *("direction", "split", "step", "is_baseline", "status", "error", "comment", "monitor"),
    *("run_id", "command", "git_commit", "started_at", "duration_s", "data_settings"),
)
"""
task_setting: Settings of the task's data that differ inside this report (`horizon=48`).
variant: Settings of the mechanism that were overridden, or that differ (`window=8`).
setting: Any other settings that differ (`lr=0.01`).
rule: The trivial rule that the row scores; the column attention has it too, and no mechanism then.
embed_dim: The width of the model, where a setting of that name tells it.
seed: That of the run; with any other that was set apart from it (`0, data.seed=1`).
is_nan: The value is no number, as after a divergence; a value that could not be had is empty too.
is_baseline: The row measures the baseline beside the run's own mechanism.
monitor: The metric that selected the checkpoint.
data_settings: Every setting of the task's data, by which a published protocol is recognised.
"""

SAMPLES = "samples"
"""The column of the single calls that a value is the median of, which no file repeats."""
NOTHING = Measurement(metric="", value=None)
RULE = "rule: "
"""Starts the name of a trivial rule where those of mechanisms stand."""
ROW = ["attention", "variant", "setting"]
"""What makes one line of a table."""
TASK = ["suite", "task", "dataset", "task_setting", "backbone"]
"""What makes one task."""


def tidy(records: Sequence[Record]) -> pd.DataFrame:
    """The tidy table of `records`, with the columns `COLUMNS` and `SAMPLES`."""
    labels = _completed(records)
    settings = differences(records, labels)
    rows = [
        _row(record, own, told, measurement)
        for record, own, told in zip(records, labels, settings, strict=True)
        for measurement in _measured(record)
    ]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, SAMPLES])
    whole = dict.fromkeys(("embed_dim", "seq_len", "step"), "Int64")
    return frame.astype({"value": float, **whole})


def is_own(rows: pd.DataFrame) -> pd.Series:
    """Whether each row is of its run's own mechanism: no baseline beside it and no rule."""
    return ~rows["is_baseline"] & rows["rule"].eq("")


def _measured(record: Record) -> tuple[Measurement, ...]:
    """The measurements of a run, or that it measured nothing of its own."""
    is_empty = all(m.rule is not None for m in record.measurements)  # of which there may be none
    return (NOTHING, *record.measurements) if is_empty else record.measurements


def _row(
    record: Record, labels: Mapping[str, str], told: Differences, m: Measurement
) -> dict[str, Any]:
    beside, rule = m.attention is not None, "" if m.rule is None else one_line(m.rule) or "?"
    return {
        **labels,
        "seed": told.seed,
        "attention": RULE + rule if rule else one_line(m.attention) or labels["attention"],
        "variant": "" if beside or rule else told.variant,
        "setting": "" if rule else told.setting,
        "rule": rule,
        "embed_dim": told.embed_dim,
        "task_setting": told.task_setting,
        "seq_len": m.seq_len,
        "metric": one_line(m.metric),
        "value": m.value,
        "is_nan": m.value is not None and math.isnan(m.value),
        "samples": m.samples,
        "unit": one_line(m.unit),
        "direction": m.direction,
        "split": one_line(m.split),
        "step": m.step,
        "is_baseline": beside,
        "status": str(record.status),
        "error": one_line(record.error),
        "comment": one_line(m.comment),
        "monitor": told.monitor,
        "run_id": one_line(record.run_id),
        "command": one_line(record.command),
        "git_commit": one_line(record.environment.get("git_commit")),
        "started_at": one_line(record.started_at),
        "duration_s": record.duration_s,
        "data_settings": told.data_settings,
    }


def _completed(records: Sequence[Record]) -> list[dict[str, str]]:
    """The labels of each record as text; a run that failed early takes its task's from the others.

    Such a run does not know its dataset and backbone, which its place in the tables needs.
    """
    labels = [{key: one_line(record.labels.get(key)) for key in LABELS} for record in records]
    for own, name in zip(labels, _attention_names(records), strict=True):
        own["attention"] = name
    known: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record, own in zip(records, labels, strict=True):
        for key in _identities(record, own):
            for name in ("dataset", "backbone"):
                known[key][name] |= {own[name]} - {""}
    for record, own in zip(records, labels, strict=True):
        for key in _identities(record, own):
            for name, values in known[key].items():
                if not own[name] and len(values) == 1:
                    own[name] = next(iter(values))
    return labels


def _attention_names(records: Sequence[Record]) -> list[str]:
    """The name of each record's mechanism, with its module where two classes have one name."""
    runs = [
        (one_line(record.labels.get("attention")), _attention_class(record)) for record in records
    ]
    classes: dict[str, set[str]] = defaultdict(set)
    for name, of in runs:
        classes[name].add(of)
    names = {(name, of): _distinct(name, of, classes[name]) for name, of in set(runs)}
    return [names[run] for run in runs]


def _attention_class(record: Record) -> str:
    config = record.config.get("attention")
    target = config.get("_target_") if isinstance(config, Mapping) else ""
    return one_line(record.labels.get("attention_class") or target)


def _distinct(name: str, of: str, classes: set[str]) -> str:
    """The name if it is of one class only, or of one that is ours; else as much of the path as
    tells it from the others."""
    ours = {each for each in classes if each.startswith("attentions.")}
    if len(classes) == 1 or ours == {of}:
        return name
    parts = {each: each.split(".") for each in classes}
    for length in range(2, max(map(len, parts.values()))):
        if len({tuple(path[-length:]) for path in parts.values()}) == len(classes):
            return ".".join(parts[of][-length:]) or name
    return of or name


def _identities(record: Record, labels: Mapping[str, str]) -> list[tuple[str, ...]]:
    """What two runs of one task share, the surest first: the settings of its data, its name."""
    task = (labels["suite"], labels["task"])
    return [(*task, data_settings(flattened(record.config))), task] if labels["task"] else []


def without_repeats(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table without runs that repeat a seed of their cell, and a line that names them.

    Two runs with one seed (`device=auto` and `device=cpu`, say) are not independent. The later
    counts, and one that came to its end before one that did not.

    Args:
        rows: The tidy table.
    """
    runs = rows[rows["command"].eq("train") & is_own(rows)].drop_duplicates("run_id")
    runs = runs.assign(ended=runs["status"].isin(["ok", "diverged"]))
    runs = runs.sort_values(["ended", "started_at"], kind="stable")
    cell = ["pattern", *TASK, *ROW, "seed"]
    repeats = runs[runs.duplicated(cell, keep="last")]
    if repeats.empty:
        return rows, []
    named = repeats[["attention", "task", "pattern", "seed"]].drop_duplicates()
    examples = [" ".join(filter(None, each[:3])) + f" seed {each[3]}" for each in named.to_numpy()]
    problem = (
        f"{len(repeats)} runs repeat a seed of the same settings and are left out, "
        f"the later one counts: {'; '.join(examples[:3])}{'; …' if len(examples) > 3 else ''}"
    )
    return rows[~rows["run_id"].isin(repeats["run_id"])].reset_index(drop=True), [problem]


def row_name(attention: str, variant: str = "", setting: str = "") -> str:
    """How one line of a table is called: `local_window (window=8, lr=0.01)`."""
    told = ", ".join(part for part in (variant, setting) if part)
    return f"{attention} ({told})" if told else attention


def row_names(frame: pd.DataFrame) -> list[str]:
    """`row_name` of each line."""
    return [row_name(*row) for row in frame[ROW].itertuples(index=False, name=None)]


def task_name(
    task: str, dataset: str, task_setting: str, backbone: str = "", among: int = 1
) -> str:
    """How a task is called: `forecasting ETTh1 horizon=48`; the backbone only among several."""
    parts = dict.fromkeys([task, dataset, task_setting, backbone if among > 1 else ""])
    return " ".join(part for part in parts if part)


def mark_of(dataset: str) -> str:
    """Which of `MARKS` a dataset ends in, if any."""
    return next((mark for mark in MARKS if dataset.endswith(mark)), "")


def known_patterns(rows: pd.DataFrame) -> list[str]:
    """The patterns of a table in the order of the report; unknown ones come last."""
    present = [pattern for pattern in rows["pattern"].unique() if pattern]
    order = list(PATTERNS)
    return sorted(present, key=lambda p: (order.index(p) if p in order else len(order), p))
