"""One run: its identity, its limits, how it ends, and its record.

A command's body is `measure(run)`: it reads `run.config`, names what it learns in `run.labels` and
adds its numbers with `run.add`. Whatever it added before it failed is kept.
"""

import fcntl
import functools
import os
import platform
import resource
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from attentions.base import Unavailable, UnsupportedPattern
from attentions.registry import names
from runners.measure import is_out_of_memory
from runners.progress import Progress, deaths, over
from runners.records import (
    Measurement,
    Record,
    RecordStore,
    Status,
    UnreadableRecord,
    read_record,
    run_id,
)

AXES = ("task", "attention", "pattern", "seed", "device", "experiment", "run", "hydra")


class TimeLimit(Exception):
    """The run took longer than `run.timeout_s`."""


class Diverged(Exception):
    """The loss or the weights are no numbers any more; the message names the step."""


class UnsupportedStage(Exception):
    """The mechanism lacks what one stage of a run needs; what came before is measured."""


@dataclass
class Run:
    """What a command's body works on.

    Attributes:
        run_id: The identity of the run.
        config: Its whole resolved configuration.
        folder: Where it may keep checkpoints.
        labels: The columns that are the same for all its measurements.
        measurements: The numbers so far.
    """

    run_id: str
    config: DictConfig
    folder: Path
    labels: dict[str, Any] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)

    def add(self, metric: str, value: float | None, **fields: Any) -> None:
        """Add one measurement; `fields` are those of `Measurement`."""
        self.measurements.append(Measurement(metric, value, **fields))


def execute(command: str, measure: Callable[[Run], None], config: DictConfig) -> Record:
    """Run one configuration, unless its record says that it has ended already.

    Raises:
        OSError: If the record cannot be written. Its contents are printed first: what was
            measured is not lost.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    identity = run_id(command, settings)
    store = RecordStore(Path(config.run.results) / config.run.sweep)
    progress = Progress(config.run.progress)
    labels = _labels(command, config)
    name = " ".join(str(labels[key]) for key in ("task", "attention", "pattern") if labels[key])
    name = f"{name} seed {labels['seed']}" if labels["seed"] is not None else name
    with _sole(store, identity):
        events = progress.events()
        if any(event.run_id == identity for event in over(events)):
            # The sweep was taken up again after a worker's death.
            return read_record(store.path(identity))
        known = None if config.run.force else _known(store, identity)
        if known is not None:
            progress.tell(identity, name, "skipped", known.status)
            return known
        num_deaths = deaths(events)[identity]
        if num_deaths > 1:
            error = "the worker process died twice in this run, perhaps for want of memory"
            status, place = Status.FAILED, environment()
            record = Record(identity, command, status, settings, place, labels, error=error)
            _end(store, progress, name, record)
        else:
            run = Run(identity, config, store.folder / "checkpoints" / identity, labels)
            with _company(store, alone=num_deaths > 0):
                progress.start(identity, name)
                record = _measured(command, measure, run, settings)
                _end(store, progress, name, record)  # before another may run, and die, beside it
    return record


def _measured(
    command: str, measure: Callable[[Run], None], run: Run, settings: dict[str, Any]
) -> Record:
    status, error, trace = Status.OK, "", ""
    started_at, start = datetime.now(UTC), time.perf_counter()
    if run.config.run.threads is not None:
        torch.set_num_threads(run.config.run.threads)
    try:
        with _time_limit(run.config.run.timeout_s), _memory_limit(run.config.run.memory_gib):
            measure(run)
    except Exception as raised:  # every way to fail ends in a row, with its reason
        reason = _unwrapped(raised)
        status = status_of(reason)
        error = " ".join(str(reason).split()) or type(reason).__name__
        if status is Status.FAILED and not isinstance(reason, ValueError | OSError):
            error = f"{type(reason).__name__}: {error}"
        trace = traceback.format_exc()
    return Record(
        run_id=run.run_id,
        command=command,
        status=status,
        config=settings,
        environment=environment(),
        labels=run.labels,
        measurements=tuple(run.measurements),
        error=error,
        traceback=trace,
        started_at=started_at.isoformat(timespec="seconds"),
        duration_s=round(time.perf_counter() - start, 3),
    )


def _unwrapped(reason: Exception) -> Exception:
    """What a constructor raised, without what Hydra says of its own call of it."""
    wrapped = isinstance(reason, InstantiationException)
    return reason.__cause__ if wrapped and isinstance(reason.__cause__, Exception) else reason


def status_of(reason: Exception) -> Status:
    """How a run ends that raised `reason`."""
    if isinstance(reason, Diverged):
        return Status.DIVERGED
    if isinstance(reason, UnsupportedPattern | UnsupportedStage):
        return Status.UNSUPPORTED
    if isinstance(reason, Unavailable):
        return Status.UNAVAILABLE
    if isinstance(reason, TimeLimit):
        return Status.TIMEOUT
    return Status.OOM if is_out_of_memory(reason) else Status.FAILED


def _known(store: RecordStore, identity: str) -> Record | None:
    """The record of an earlier run that ended for good; an unreadable one is run again."""
    try:
        record = store.read(identity)
    except UnreadableRecord as error:
        print(f"attnbench: {error}; running it again", flush=True)
        store.path(identity).rename(store.path(identity).with_suffix(".unreadable"))
        return None
    return record if record is not None and record.status.is_final else None


def _end(store: RecordStore, progress: Progress, name: str, record: Record) -> None:
    """Write the record, then tell that the run has ended."""
    try:
        store.write(record)
    except OSError as error:
        for m in record.measurements:
            print(f"not recorded: {record.run_id} {m}", flush=True)
        raise OSError(
            error.errno, f"cannot write the record {store.path(record.run_id)}: {error.strerror}"
        ) from error
    progress.tell(record.run_id, name, "ended", record.status, record.error)


@contextmanager
def _sole(store: RecordStore, identity: str) -> Iterator[None]:
    """Hold a run against other processes: two sweeps on one folder never run the same twice."""
    try:
        (store.folder / "locks").mkdir(parents=True, exist_ok=True)
        lock = (store.folder / "locks" / identity).open("w")
    except OSError as error:
        raise OSError(
            error.errno, f"results folder {store.folder} is not writable: {error.strerror}"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _company(store: RecordStore, *, alone: bool) -> Iterator[None]:
    """Let a run that died before run alone: when it dies again, no other is to blame.

    The death of one worker takes the others of its pool with it, so the first says little.
    """
    with (store.folder / "locks" / "company").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return

    def expire(*_: object) -> None:
        raise TimeLimit(f"took longer than run.timeout_s = {seconds}")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def _memory_limit(gib: float | None) -> Iterator[None]:
    """Let allocations beyond the limit fail, instead of the system killing the process."""
    if gib is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * 2**30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _labels(command: str, config: DictConfig) -> dict[str, Any]:
    """The columns that the settings determine."""
    hydra = HydraConfig.get()
    task = config.get("task")
    return {
        "suite": task.suite if task is not None else None,
        "task": task.name if task is not None else None,
        "variant": _variant(list(hydra.overrides.task), config.get("attention")),
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


def _attention_name(config: DictConfig, choice: str | None) -> str:
    if choice in names():
        return cast(str, choice)
    return str(config.attention.get("_target_", "custom")).rsplit(".", 1)[-1]


def _variant(overrides: list[str], attention: DictConfig | None) -> str:
    """The settings that were changed by hand, beyond the axes of the benchmark."""
    changed = [o.lstrip("+") for o in overrides]
    changed = [
        o
        for o in changed
        if o.split("=")[0].split(".")[0].split("/")[0] not in AXES
        or o.startswith(("task.", "attention."))
    ]
    return ", ".join(sorted(o for o in changed if not o.startswith("attention._target_")))


@functools.cache
def environment() -> dict[str, Any]:
    """The versions, the machine and the commit that a number came from."""
    cuda = torch.cuda.is_available()
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "host": platform.node(),
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
