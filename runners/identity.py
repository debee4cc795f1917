"""Which run a configuration is: what identifies it, its columns, and its name for a reader."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from attentions.registry import load, names
from runners.environment import environment, version
from runners.fingerprint import PACKAGES, dependence, sources
from runners.records import Record, run_id, settings_id

CACHE = ".contents"
AXES = ("task", "attention", "pattern", "size", "seed", "device", "experiment", "run", "hydra")


@dataclass(frozen=True)
class Identity:
    """What tells a run from every other.

    Attributes:
        run_id: The name of its record.
        settings_id: See `Record`.
        sources: See `Record`.
    """

    run_id: str
    settings_id: str
    sources: Mapping[str, str]

    @classmethod
    def of(cls, settings_id: str, sources: Mapping[str, str]) -> "Identity":
        """That of a run of this version of attnbench."""
        return cls(run_id(settings_id, sources, version()), settings_id, sources)


def identify(command: str, settings: Mapping[str, Any]) -> Identity:
    """The identity of the run of `settings`, whole and resolved, with the code and data of now."""
    found = sources(dependence(settings), Path(settings["run"]["results"]) / CACHE)
    return Identity.of(settings_id(command, settings), found)


def labels(config: DictConfig, hydra: Any = None) -> dict[str, Any]:
    """The columns that the settings determine; `hydra` is that of the job, if not this one."""
    hydra = hydra or HydraConfig.get()
    task = config.get("task")
    return {
        "suite": task.suite if task is not None else None,
        "task": task.name if task is not None else None,
        "variant": _variant(list(hydra.overrides.task)),
        "dataset": None,
        "backbone": None,
        "attention": _attention_name(config, hydra.runtime.choices.get("attention")),
        "attention_class": config.attention.get("_target_"),
        "pattern": config.get("pattern"),
        "seed": config.get("seed"),
        "world_size": 1,
        "device": None,
        "dtype": config.get("dtype", "float32"),
    }


def run_name(labels: Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    """A run on one line: its axes, and the settings that were changed by hand.

    Args:
        labels: See `labels`.
        overrides: Of the job; the device that was asked for is none of its columns.
    """
    attention, cls = labels["attention"], labels["attention_class"] or ""
    if cls.rpartition(".")[2] == attention and cls.partition(".")[0] not in PACKAGES:
        attention = cls  # two classes can have one name
    parts = [labels["task"], attention, labels["pattern"]]
    parts += [f"seed {labels['seed']}"] if labels["seed"] is not None else []
    changed = [part for part in re.split(r", (?=[^\s,]+=)", labels["variant"]) if part]
    short = [re.sub(r"^[^=]*[./]", "", part) for part in changed]
    keys = [part.partition("=")[0] for part in short]
    for long, brief, key in zip(changed, short, keys, strict=True):
        parts.append(brief if keys.count(key) == 1 else long)
    parts += [override for override in overrides if override.startswith("device=")]
    return " ".join(str(part) for part in parts if part)


def _attention_name(config: DictConfig, choice: str | None) -> str:
    target = str(config.attention.get("_target_", "custom"))
    # The class can be another than that of the choice, whose settings alone are then meant.
    return choice if choice and _class_of(choice) == target else target.rpartition(".")[2]


@functools.cache
def _class_of(name: str) -> str | None:
    return load(name)["_target_"] if name in names() else None


def _variant(overrides: list[str]) -> str:
    """The settings that were changed by hand, beyond the axes of the benchmark."""
    changed = [o.lstrip("+") for o in overrides]
    changed = [
        o
        for o in changed
        if o.split("=")[0].split(".")[0].split("/")[0] not in AXES
        or o.startswith(("task.", "attention."))
    ]
    return ", ".join(sorted(o for o in changed if not o.startswith("attention._target_")))


def described(record: Record, identity: Identity) -> str:
    """When a record was made, and by which attnbench where that is another."""
    place, here = record.environment, environment()
    theirs = _maker(place, record.sources.get("attnbench"))
    ours = _maker(here, identity.sources["attnbench"])
    other = "" if theirs == ours else f", made by {theirs} (this is {ours})"
    return f"of {_date(record)}{other}"


def supersedes(record: Record, identity: Identity) -> str:
    """What has changed since a record of the same settings."""
    known = record.sources.keys() | identity.sources.keys()
    changed = sorted(
        name
        for name in known - {"attnbench"}
        if record.sources.get(name) != identity.sources.get(name)
    )
    before = record.environment.get("attnbench")
    if not changed or before != version():
        changed.append(f"attnbench ({before or 'unknown version'}, now {version()})")
    verb = "has" if len(changed) == 1 else "have"
    what = ", ".join(changed)
    return f"{what} {verb} changed since the record of {_date(record)}, which this run supersedes"


def _maker(place: Mapping[str, Any], digest: str | None) -> str:
    commit = str(place.get("git_commit") or "")[:10]
    parts = [f"attnbench {place.get('attnbench') or 'of unknown version'}"]
    parts += [f"commit {commit}"] if commit else []
    parts += [f"code {digest[:8]}"] if digest else []
    return ", ".join(parts)


def _date(record: Record) -> str:
    return f"{record.started_at[:16].replace('T', ' ')} UTC"
