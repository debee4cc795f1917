"""One run: its identity, its limits, how it ends, and its record.

A command's body is `measure(run)`: it reads `run.config`, names what it learns in `run.labels` and
adds its numbers with `run.add`. Whatever it added before it failed is kept.
"""

import fcntl
import pickle
import resource
import signal
import sys
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
from runners import ownership, ranks
from runners.ended import jobs, reused
from runners.environment import environment
from runners.identity import Identity, identify, labels, run_name, supersedes
from runners.measure import is_out_of_memory
from runners.progress import Progress
from runners.records import Measurement, Record, RecordStore, Status, read_record
from runners.started import num_started
from runners.stopping import Stopped, listening


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
        journal: Where they are noted as well, for the process that started this one.
    """

    run_id: str
    config: DictConfig
    folder: Path
    labels: dict[str, Any] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    journal: Path | None = None

    def add(self, metric: str, value: float | None, **fields: Any) -> None:
        """Add one measurement; `fields` are those of `Measurement`."""
        self.measurements.append(Measurement(metric, value, **fields))
        self.note(self.measurements[-1])

    def note(self, measurement: Measurement | None) -> None:
        """Write a measurement and the labels, or the labels alone, into the journal."""
        if self.journal is not None:
            with self.journal.open("ab") as file:
                pickle.dump((self.labels, measurement), file)


def execute(command: str, measure: Callable[[Run], None], config: DictConfig) -> Record:
    """Run one configuration, unless its record says that it has ended already.

    Raises:
        OSError: If the record cannot be written. Its contents are printed first: what was
            measured is not lost.
        Stopped: If a signal ends the process. Nothing is recorded.
    """
    if num_started() > 1 and not ranks.joined():
        ranks.join()
    if not ranks.is_first():
        return _follow(measure, config)
    record = None
    while record is None:
        record = _attempt(command, measure, config)
    return record


def _follow(measure: Callable[[Run], None], config: DictConfig) -> Record:
    """What every rank but the first does: it works where that one says so, and records nothing."""
    while True:
        told = ranks.tell(None)
        if isinstance(told, Record):
            return told
        run = Run(told.run_id, config, told.folder, told.labels)
        try:
            measure(run)
        except BaseException as error:
            ranks.note_failure(run.folder, error)
            time.sleep(ranks.GRACE_S)
            raise


def _attempt(command: str, measure: Callable[[Run], None], config: DictConfig) -> Record | None:
    """See `execute`; None if the code or the data changed before the run could begin."""
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    identity, columns = identify(command, settings), labels(config)
    overrides = HydraConfig.get().overrides.task
    name = run_name(columns, overrides)
    store = RecordStore(Path(config.run.results) / config.run.sweep)
    progress = Progress.at(config.run.progress)
    if progress.path is None:
        store.tidy()
    else:
        jobs(store.folder, command).note(overrides, identity, name, config, settings)
    with store.sole(identity.run_id):
        if progress.is_over(identity.run_id):
            # The sweep was taken up again after a worker's death.
            return ranks.tell(read_record(store.path(identity.run_id)))
        known = None if config.run.force else reused(store, identity, name, progress)
        if known is not None:
            return ranks.tell(known)
        num_deaths = progress.deaths()[identity.run_id]
        if num_deaths > 1:
            error = "the worker process died twice in this run, perhaps for want of memory"
            record = _record(
                command, identity, settings, columns, Status.FAILED, environment(), error=error
            )
            _end(store, progress, name, record)
            return record
        run = Run(identity.run_id, config, store.folder / "checkpoints" / identity.run_id, columns)
        with _company(store, alone=num_deaths > 0):
            if identify(command, settings) != identity:  # others have held the run, or the company
                return None
            notes = _notes(store, identity, run, anew=config.run.force and not num_deaths)
            progress.start(identity.run_id, name, notes)
            if notes and progress.path is None:
                print(f"attnbench: {name}: {notes}", file=sys.stderr, flush=True)
            record = _measured(command, measure, run, identity, settings)
            ownership.release(run.folder)
            # Before another may run, and die, beside it.
            _end(store, progress, name, record, notes)
    # After a failure the other ranks may be anywhere: they are ended, not told.
    return ranks.tell(record) if record.status is Status.OK else record


def _notes(store: RecordStore, identity: Identity, run: Run, *, anew: bool) -> str:
    """What a reader should know of a run that starts."""
    before = store.other(identity.run_id)
    code = {
        "attnbench": identity.sources["attnbench"],
        "torch": torch.__version__,
    }
    notes = [ownership.claim(run.folder, code, anew=anew)]
    notes += [supersedes(before, identity)] if before is not None else []
    return "; ".join(note for note in notes if note)


def _measured(
    command: str,
    measure: Callable[[Run], None],
    run: Run,
    identity: Identity,
    settings: dict[str, Any],
) -> Record:
    status, error, trace = Status.OK, "", ""
    if run.config.run.threads is not None:
        torch.set_num_threads(run.config.run.threads)
    # Before the run, whose code it names: that of a long one may change on the disk meanwhile.
    place = environment()
    started_at, start = datetime.now(UTC), time.perf_counter()
    with listening() as told:
        try:
            with _time_limit(run.config.run.timeout_s), _memory_limit(run.config.run.memory_gib):
                ranks.forget_failures(run.folder)
                ranks.tell(run)
                measure(run)
        except BaseException as raised:  # every way to fail ends in a row, with its reason
            # What ends this rank may be that another has failed.
            first = (
                next(iter(ranks.failures(run.folder).values()), None) if ranks.joined() else None
            )
            if first is None and (told.number is not None or isinstance(raised, Stopped)):
                raise Stopped(told.number or cast(Stopped, raised).number) from raised
            reason = _unwrapped(first or raised)
            status = status_of(reason)
            error = _explained(reason, status)
            trace = "".join(traceback.format_exception(first or raised))
    return _record(
        command,
        identity,
        settings,
        run.labels,
        status,
        place,
        measurements=tuple(run.measurements),
        error=error,
        traceback=trace,
        started_at=started_at.isoformat(timespec="seconds"),
        duration_s=round(time.perf_counter() - start, 3),
    )


def _record(
    command: str,
    identity: Identity,
    settings: dict[str, Any],
    labels: dict[str, Any],
    status: Status,
    place: dict[str, Any],
    **fields: Any,
) -> Record:
    return Record(
        run_id=identity.run_id,
        command=command,
        status=status,
        config=settings,
        environment=place,
        settings_id=identity.settings_id,
        sources=identity.sources,
        labels=labels,
        **fields,
    )


def _unwrapped(reason: BaseException) -> BaseException:
    """What the code under test raised, without what libraries make of it."""
    if isinstance(reason, InstantiationException):  # Hydra, of its call of a constructor
        return reason.__cause__ or reason
    if isinstance(reason, SystemExit) and isinstance(reason.__context__, KeyboardInterrupt):
        return reason.__context__  # Lightning
    return reason


def _explained(reason: BaseException, status: Status) -> str:
    message, kind = " ".join(str(reason).split()), type(reason).__name__
    if message and (status is not Status.FAILED or isinstance(reason, ValueError | OSError)):
        return message
    return f"{kind}: {message}" if message else kind


def status_of(reason: BaseException) -> Status:
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


def _end(store: RecordStore, progress: Progress, name: str, record: Record, note: str = "") -> None:
    """Write the record, then tell that the run has ended."""
    try:
        store.write(record)
    except OSError as error:
        for m in record.measurements:
            print(f"not recorded: {record.run_id} {m}", flush=True)
        raise OSError(
            error.errno, f"cannot write the record {store.path(record.run_id)}: {error.strerror}"
        ) from error
    progress.tell(record.run_id, name, "ended", record.status, record.error, note)


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
