"""How the settings of runs differ, in words: once, so that no later step takes them for seeds."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runners.records import Record, printable

PLACE = ("device", "dtype", "world_size", "num_threads")
"""Where a run took place; its labels say so, its settings only what was asked for."""
SPEED_EFFORT = ("seq_lens", "passes", "min_run_time_s", "max_call_s")
"""How much `attnbench speed` measures: nothing that changes a cost."""
WIDTH = "task.model.embed_dim"
"""The setting behind the column `embed_dim`."""


@dataclass(frozen=True)
class Differences:
    """How the settings of one run differ from those of others; as in `table.COLUMNS`."""

    seed: str
    variant: str
    setting: str
    task_setting: str
    monitor: str
    data_settings: str
    embed_dim: int | None


def data_settings(flat: Mapping[str, str]) -> str:
    """Every setting of the task's data but for its seed, in one line."""
    of_data = sorted(
        key
        for key in flat
        if key.startswith("task.data.") and not _is_seed(key) and not _is_pattern(key, flat)
    )
    return "; ".join(
        f"{key.removeprefix('task.data.')}={flat[key]}"
        for key in of_data
        if key != "task.data._target_"
    )


def differences(
    records: Sequence[Record], labels: Sequence[Mapping[str, str]]
) -> list[Differences]:
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
        whole = flattened(record.config)
        told.append(
            Differences(
                seed=_seed(record),
                variant=_words(flat, inside | _overridden(record)),
                setting=_words(flat, beside - of_data),
                task_setting=_words(flat, of_data),
                monitor=whole.get("task.fit.monitor", ""),
                data_settings=data_settings(whole),
                embed_dim=_whole_number(whole.get(WIDTH, "")),
            )
        )
    return told


def _seed(record: Record) -> str:
    """The seed of a run, and those of its parts that are not the same."""
    seed = one_line(record.labels.get("seed"))
    seeds = {key: value for key, value in flattened(record.config).items() if _is_seed(key)}
    others = [f"{key.removeprefix('task.')}={seeds[key]}" for key in sorted(seeds)]
    return ", ".join([seed, *(other for other in others if other.split("=", 1)[1] != seed)])


def _whole_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _telling(record: Record, labels: Mapping[str, str]) -> dict[str, str]:
    """The settings in which one run may differ from another, and where it ran."""
    whole = flattened(record.config)
    flat = {
        key: value
        for key, value in whole.items()
        if not _is_free(key, record) and not _is_pattern(key, whole)
    }
    if record.status != "ok":  # perhaps it failed before it knew its device
        return flat
    return flat | {key: labels[key] for key in PLACE if labels[key]}


def _defines_data(key: str) -> bool:
    """Whether a setting makes another task, and not another way to train on the same one."""
    return key.startswith("task.data.") and not key.endswith("batch_size")


def _overridden(record: Record) -> set[str]:
    """The settings of the mechanism that were changed by hand."""
    overrides = one_line(record.labels.get("variant")).split(", ")
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


def _is_pattern(key: str, flat: Mapping[str, str]) -> bool:
    """Whether a setting repeats the pattern of the run, for a task that is posed in several."""
    return key.rsplit(".", 1)[-1] == "pattern" and flat[key] == flat.get("pattern")


def _is_free(key: str, record: Record) -> bool:
    """Whether runs may differ in this and still be one and the same measurement, repeated."""
    head = key.split(".", 1)[0]
    is_effort = record.command == "speed" and key in SPEED_EFFORT
    return _is_seed(key) or head in ("run", "pattern") or key in PLACE or is_effort


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `task.model.lr -> 0.001`."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = one_line(value)
    return flat


def one_line(value: object) -> str:
    """Any value as a text without line ends and control characters; None is empty."""
    return "" if value is None else printable(" ".join(str(value).split()))
