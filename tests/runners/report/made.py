"""Records as the commands write them, made by hand."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from runners.records import Measurement, Record, RecordStore, Status, run_id, settings_id
from runners.report.table import tidy


def train(
    attention: str = "softmax",
    scores: Mapping[str, float | None] | None = None,
    *,
    pattern: str = "causal_self",
    seed: int = 0,
    task: str = "mqar",
    suite: str = "diagnostics",
    dataset: str | None = "mqar",
    backbone: str | None = "Mqar",
    directions: Mapping[str, str] | None = None,
    rules: Mapping[str, Mapping[str, float]] | None = None,
    status: Status = Status.OK,
    error: str = "",
    settings: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    monitor: str | None = None,
    variant: str = "",
    extra: Iterable[Measurement] = (),
    **fields: Any,
) -> Record:
    """A training run with these test metrics; `higher` is better but in `mse`, `mae` and so on."""
    config = {
        "task": {
            "suite": suite,
            "name": task,
            "data": {"_target_": "data", "seed": seed} | dict(data or {}),
            "model": {"_target_": "model", "lr": 0.001} | dict(model or {}),
            "fit": {"monitor": monitor},
        },
        "attention": {"_target_": attention} | dict(settings or {}),
        "pattern": pattern,
        "seed": seed,
        "device": "auto",
        "run": {"sweep": "made"},
    }
    directions = directions or {}
    measurements = [
        Measurement(name, value, direction=directions.get(name, _direction(name)), split="test")
        for name, value in (scores or {}).items()
    ]
    measurements += [
        Measurement(name, value, direction=_direction(name), split="test", rule=rule)
        for rule, of in (rules or {}).items()
        for name, value in of.items()
    ]
    labels = {
        "suite": suite,
        "task": task,
        "variant": variant,
        "dataset": dataset,
        "backbone": backbone,
        "attention": attention,
        "pattern": pattern,
        "seed": seed,
        "world_size": 1,
        "device": "cpu" if status is Status.OK else None,
        "dtype": "32-true" if status is Status.OK else "float32",
    }
    return Record(
        run_id=run_id(settings_id("train", config), {}, None),
        command="train",
        status=status,
        config=config,
        environment={"git_commit": "0" * 40},
        labels=labels,
        measurements=(*measurements, *extra),
        error=error,
        **fields,
    )


def _direction(metric: str) -> str:
    return "lower" if metric in ("mse", "mae", "perplexity", "nll") else "higher"


def speed(
    attention: str,
    costs: Mapping[str, Mapping[int, float | None]],
    baseline: Mapping[str, Mapping[int, float | None]],
    *,
    pattern: str = "noncausal_self",
    seed: int = 0,
    comment: str = "",
    settings: Mapping[str, Any] | None = None,
    num_threads: int = 1,
) -> Record:
    """A speed run: cost by metric (`forward_time`) and length, of the mechanism and of softmax."""
    config = {"attention": {"_target_": attention}, "pattern": pattern, "seed": seed}
    config |= dict(settings or {})
    measurements = [
        Measurement(
            metric,
            value,
            unit="ms" if metric.endswith("time") else "MiB",
            direction="lower",
            seq_len=length,
            attention=who,
            comment=comment if value is None else "",
        )
        for who, by_metric in ((None, costs), ("softmax", baseline))
        for metric, by_length in by_metric.items()
        for length, value in by_length.items()
    ]
    labels = {"attention": attention, "pattern": pattern, "seed": seed, "variant": ""}
    return Record(
        run_id=run_id(settings_id("speed", config), {}, None),
        command="speed",
        status=Status.OK,
        config=config,
        environment={"git_commit": "0" * 40},
        labels=labels | {"device": "cpu", "dtype": "float32", "num_threads": num_threads},
        measurements=tuple(measurements),
    )


def verify(attention: str, checks: Mapping[str, str], status: Status = Status.OK) -> Record:
    """A verify run: comment by `<pattern>/<check>`."""
    config = {"attention": {"_target_": attention}, "pattern": None}
    return Record(
        run_id=run_id(settings_id("verify", config), {}, None),
        command="verify",
        status=status,
        config=config,
        environment={"git_commit": "0" * 40},
        labels={"attention": attention, "pattern": None, "variant": ""},
        measurements=tuple(
            Measurement(f"verify/{name}", None, comment=comment) for name, comment in checks.items()
        ),
    )


def rows(*records: Record | Iterable[Record]) -> pd.DataFrame:
    """Their tidy table."""
    lists = ([record] if isinstance(record, Record) else record for record in records)
    return tidy(list(itertools.chain.from_iterable(lists)))


def folder(path: Path, *records: Record) -> Path:
    """A result folder that holds them."""
    for record in records:
        RecordStore(path).write(record)
    return path
