"""Records to one tidy table: one row per measurement, and one for each run that measured nothing.

Everything in a report is computed from this table. Runs whose settings differ are told apart here,
once, so that no later step can average them as if they were seeds.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from runners.records import Measurement, Record, printable

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
PLACE = ("device", "dtype", "world_size", "num_threads")
"""Where a run took place; its labels say so, its settings only what was asked for."""
SPEED_EFFORT = ("seq_lens", "passes", "min_run_time_s", "max_call_s")
"""How much `attnbench speed` measures: nothing that changes a cost."""
COLUMNS = (
    *("suite", "task", "dataset", "task_setting", "backbone", "attention", "variant", "setting"),
    *("pattern", "seq_len", "world_size", "num_threads", "device", "dtype", "seed"),
    *("metric", "value", "is_nan", "unit"),
    *("direction", "split", "step", "is_baseline", "status", "error", "comment", "monitor"),
    *("run_id", "command", "git_commit", "started_at", "duration_s", "data_settings"),
)
"""
task_setting: Settings of the task's data that differ inside this report (`horizon=48`).
variant: Settings of the mechanism that were overridden, or that differ (`window=8`).
setting: Any other settings that differ (`lr=0.01`).
seed: That of the run; with any other that was set apart from it (`0, data.seed=1`).
is_nan: The value is no number, as after a divergence; a value that could not be had is empty too.
is_baseline: The row measures the baseline beside the run's own mechanism.
monitor: The metric that selected the checkpoint.
data_settings: Every setting of the task's data, by which a published protocol is recognised.
"""

SAMPLES = "samples"
"""The column of the single calls that a value is the median of, which no file repeats."""
NOTHING = Measurement(metric="", value=None)
ROW = ["attention", "variant", "setting"]
"""What makes one line of a table."""
TASK = ["suite", "task", "dataset", "task_setting", "backbone"]
"""What makes one task."""


def tidy(records: Sequence[Record]) -> pd.DataFrame:
    """The tidy table of `records`, with the columns `COLUMNS` and `SAMPLES`."""
    labels = _completed(records)
    settings = _settings(records, labels)
    rows = [
        _row(record, own, told, measurement)
        for record, own, told in zip(records, labels, settings, strict=True)
        for measurement in record.measurements or (NOTHING,)
    ]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, SAMPLES])
    return frame.astype({"value": float, "seq_len": "Int64", "step": "Int64"})


def _row(
    record: Record, labels: Mapping[str, str], told: "Settings", m: Measurement
) -> dict[str, Any]:
    beside = m.attention is not None
    return {
        **labels,
        "seed": told.seed,
        "attention": _text(m.attention) or labels["attention"],
        "variant": "" if beside else told.variant,
        "setting": told.setting,
        "task_setting": told.task_setting,
        "seq_len": m.seq_len,
        "metric": _text(m.metric),
        "value": m.value,
        "is_nan": m.value is not None and math.isnan(m.value),
        "samples": m.samples,
        "unit": _text(m.unit),
        "direction": m.direction,
        "split": _text(m.split),
        "step": m.step,
        "is_baseline": beside,
        "status": str(record.status),
        "error": _text(record.error),
        "comment": _text(m.comment),
        "monitor": told.monitor,
        "run_id": _text(record.run_id),
        "command": _text(record.command),
        "git_commit": _text(record.environment.get("git_commit")),
        "started_at": _text(record.started_at),
        "duration_s": record.duration_s,
        "data_settings": told.data_settings,
    }


@dataclass(frozen=True)
class Settings:
    """How the settings of one run differ from those of its neighbours, in words; see `COLUMNS`."""

    seed: str
    variant: str
    setting: str
    task_setting: str
    monitor: str
    data_settings: str


def _completed(records: Sequence[Record]) -> list[dict[str, str]]:
    """The labels of each record as text; a run that failed early takes its task's from the others.

    Such a run does not know its dataset and backbone, which its place in the tables needs.
    """
    labels = [{key: _text(record.labels.get(key)) for key in LABELS} for record in records]
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
    runs = [(_text(record.labels.get("attention")), _attention_class(record)) for record in records]
    classes: dict[str, set[str]] = defaultdict(set)
    for name, of in runs:
        classes[name].add(of)
    names = {(name, of): _distinct(name, of, classes[name]) for name, of in set(runs)}
    return [names[run] for run in runs]


def _attention_class(record: Record) -> str:
    config = record.config.get("attention")
    target = config.get("_target_") if isinstance(config, Mapping) else ""
    return _text(record.labels.get("attention_class") or target)


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
    return [(*task, _data_settings(_flat(record.config))), task] if labels["task"] else []


def _data_settings(flat: Mapping[str, str]) -> str:
    of_data = sorted(key for key in flat if key.startswith("task.data.") and not _is_seed(key))
    return "; ".join(
        f"{key.removeprefix('task.data.')}={flat[key]}"
        for key in of_data
        if key != "task.data._target_"
    )


def _settings(records: Sequence[Record], labels: Sequence[Mapping[str, str]]) -> list[Settings]:
    """Tell apart the runs whose settings differ beyond task, mechanism, pattern and seed."""
    flats = [_telling(record, own) for record, own in zip(records, labels, strict=True)]
    tasks = [
        (record.command, *(own[key] for key in ("suite", "task", "dataset", "backbone")))
        for record, own in zip(records, labels, strict=True)
    ]
    mechanisms = [(*task, own["attention"]) for task, own in zip(tasks, labels, strict=True)]
    among_tasks = _differing(flats, tasks)
    among_mechanisms = _differing(flats, mechanisms)
    told = []
    for record, flat, task, mechanism in zip(records, flats, tasks, mechanisms, strict=True):
        beside = {key for key in among_tasks[task] if not key.startswith("attention.")}
        inside = {key for key in among_mechanisms[mechanism] if key.startswith("attention.")}
        of_data = {key for key in beside if _defines_data(key)}
        told.append(
            Settings(
                seed=_seed(record),
                variant=_words(flat, inside | _overridden(record)),
                setting=_words(flat, beside - of_data),
                task_setting=_words(flat, of_data),
                monitor=_flat(record.config).get("task.fit.monitor", ""),
                data_settings=_data_settings(_flat(record.config)),
            )
        )
    return told


def _seed(record: Record) -> str:
    """The seed of a run, and those of its parts that are not the same."""
    seed = _text(record.labels.get("seed"))
    seeds = {key: value for key, value in _flat(record.config).items() if _is_seed(key)}
    others = [f"{key.removeprefix('task.')}={seeds[key]}" for key in sorted(seeds)]
    return ", ".join([seed, *(other for other in others if other.split("=", 1)[1] != seed)])


def _telling(record: Record, labels: Mapping[str, str]) -> dict[str, str]:
    """The settings in which one run may differ from another, and where it ran."""
    flat = {k: value for k, value in _flat(record.config).items() if not _is_free(k, record)}
    if record.status != "ok":  # perhaps it failed before it knew its device
        return flat
    return flat | {key: labels[key] for key in PLACE if labels[key]}


def _defines_data(key: str) -> bool:
    """Whether a setting makes another task, and not another way to train on the same one."""
    return key.startswith("task.data.") and not key.endswith("batch_size")


def _overridden(record: Record) -> set[str]:
    """The settings of the mechanism that were changed by hand."""
    overrides = _text(record.labels.get("variant")).split(", ")
    names = {override.split("=", 1)[0] for override in overrides}
    return {name for name in names if name.startswith("attention.")}


def _differing(
    flats: Sequence[Mapping[str, str]], groups: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], set[str]]:
    """For each group, the keys that do not have one value throughout.

    A setting that only some runs have differs too; a place that some lack is just not known.
    """
    members: dict[tuple[str, ...], list[Mapping[str, str]]] = defaultdict(list)
    for flat, group in zip(flats, groups, strict=True):
        members[group].append(flat)
    return {
        group: {
            key
            for key in set().union(*flats)
            if len({flat.get(key) for flat in flats if key in flat or key not in PLACE}) > 1
        }
        for group, flats in members.items()
    }


def _words(flat: Mapping[str, str], keys: set[str]) -> str:
    """`horizon=48, past=96`; beyond three, a short hash stands for the rest."""
    present = sorted(key for key in keys if key in flat and key != "attention._target_")
    leaves = [key.rsplit(".", 1)[-1] for key in present]
    named = [
        f"{leaf if leaves.count(leaf) == 1 else key}={flat[key]}"
        for key, leaf in zip(present, leaves, strict=True)
    ]
    if len(named) <= 3:
        return ", ".join(named)
    rest = hashlib.sha256(", ".join(named[2:]).encode()).hexdigest()[:4]
    return ", ".join([*named[:2], f"+{len(named) - 2} more ({rest})"])


def _is_seed(key: str) -> bool:
    return key.rsplit(".", 1)[-1] == "seed"


def _is_free(key: str, record: Record) -> bool:
    """Whether runs may differ in this and still be one and the same measurement, repeated."""
    head = key.split(".", 1)[0]
    is_effort = record.command == "speed" and key in SPEED_EFFORT
    return _is_seed(key) or head in ("run", "pattern") or key in PLACE or is_effort


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `task.model.lr -> 0.001`."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _text(value)
    return flat


def _text(value: object) -> str:
    return "" if value is None else printable(" ".join(str(value).split()))


def without_repeats(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table without runs that repeat a seed of their cell, and a line that names them.

    Two runs with one seed (`device=auto` and `device=cpu`, say) are not independent. The later
    counts, and one that came to its end before one that did not.

    Args:
        rows: The tidy table.
    """
    runs = rows[rows["command"].eq("train") & ~rows["is_baseline"]].drop_duplicates("run_id")
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
