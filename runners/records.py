"""The record of one run, and the folder that keeps them.

One run is one JSON file, written atomically. Many writers can share a folder; a record that cannot
be read is named and left out, never fatal and never overwritten by reading.
"""

import fcntl
import functools
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from runners.files import whole


class Status(StrEnum):
    """How a run ended."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"
    DIVERGED = "diverged"
    OOM = "oom"
    FAILED = "failed"
    TIMEOUT = "timeout"

    @property
    def is_final(self) -> bool:
        """Whether running again would end the same way, so that a sweep skips it."""
        return self in (Status.OK, Status.UNSUPPORTED, Status.DIVERGED)


@dataclass(frozen=True)
class Measurement:
    """One number. What a field does not apply to is None, never 0.

    Attributes:
        metric: Its name, for example `mse` or `forward_time`.
        value: The number; None when it was tried and could not be had.
        unit: For example `ms`; empty for a pure number.
        direction: Which way is better, `lower` or `higher`; empty where neither is.
        split: `train`, `validation` or `test`, for quality.
        seq_len: Sequence length in tokens.
        step: Training step, for curves.
        attention: The mechanism measured, where it is not the run's own (the baseline beside it).
        rule: The trivial rule scored, where it is no mechanism; see `tasks.rules`.
        comment: Why a value is missing, or what it must be read with.
        samples: The single calls that `value` is the median of, in order.
    """

    metric: str
    value: float | None
    unit: str = ""
    direction: str = ""
    split: str | None = None
    seq_len: int | None = None
    step: int | None = None
    attention: str | None = None
    rule: str | None = None
    comment: str = ""
    samples: tuple[float, ...] = ()


@dataclass(frozen=True)
class Record:
    """One run: its settings, where it ran, how it ended, what it measured.

    Attributes:
        settings_id: A hash of the settings alone. Records that share it and not their `run_id` are
            of one experiment with other code or data: the newest supersedes the others.
        sources: What the numbers depend on beyond the settings, each with a hash of its content.
    """

    run_id: str
    command: str
    status: Status
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    settings_id: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    error: str = ""
    traceback: str = ""
    started_at: str = ""
    duration_s: float = 0.0


class UnreadableRecord(ValueError):
    """A record file that is not a record; the message names the file and what is wrong."""


def settings_id(command: str, config: Mapping[str, Any]) -> str:
    """A hash of the settings that determine a result.

    Folders, workers and logging live under the key `run` and are left out.
    """
    determining = {key: value for key, value in config.items() if key != "run"}
    return _hash([command, determining])[:16]


def run_id(settings_id: str, sources: Mapping[str, str], version: str | None) -> str:
    """The identity of a run: of these settings, with this code and these data.

    Args:
        settings_id: See `settings_id`.
        sources: See `runners.fingerprint.sources`. The code of the package itself is recorded, but
            only its version is part of the identity.
        version: The version of the package.
    """
    others = {name: digest for name, digest in sources.items() if name != "attnbench"}
    return f"{settings_id}-{_hash([version, others])[:8]}"


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class RecordStore:
    """The records of one sweep, in `<folder>/runs`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.runs = self.folder / "runs"

    def path(self, run_id: str) -> Path:
        """Where the record of a run is or will be."""
        return self.runs / f"{run_id}.json"

    def write(self, record: Record) -> Path:
        """Write a record so that a reader sees all of it or nothing.

        Raises:
            OSError: If the folder cannot be written or the disk is full; what was there stays.
        """
        path = self.path(record.run_id)
        with whole(path, prefix=f".{record.run_id}.") as file:
            json.dump(asdict(record), file, indent=1, default=str)
        return path

    def read(self, run_id: str) -> Record | None:
        """The record of a run, or None if there is none.

        Raises:
            UnreadableRecord: If the file is no record.
        """
        path = self.path(run_id)
        return read_record(path) if path.exists() else None

    def other(self, run_id: str) -> Record | None:
        """The newest record with the same settings and other code or data, if there is any."""
        if not self.runs.exists():
            return None
        same = _by_settings(self.runs, self.runs.stat().st_mtime_ns)
        paths = [path for path in same.get(_settings_part(run_id), []) if path.stem != run_id]
        records = []
        for path in paths:
            with suppress(UnreadableRecord):
                records.append(read_record(path))
        return max(records, key=lambda record: record.started_at, default=None)

    @contextmanager
    def sole(self, run_id: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a run against other processes, or know that another does.

        Raises:
            OSError: If the folder cannot be written.
        """
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "locks" / run_id).open("w")
        except OSError as error:
            raise OSError(
                error.errno, f"results folder {self.folder} is not writable: {error.strerror}"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def tidy(self) -> None:
        """Remove what killed writers left; a writer that lives holds its run."""
        for path in self.runs.glob(".*.*"):
            with self.sole(path.name.split(".")[1], wait=False) as is_left:
                if is_left:
                    path.unlink(missing_ok=True)

    def paths(self) -> Iterator[Path]:
        """Every record file, in a fixed order."""
        return iter(sorted(self.runs.glob("*.json")))

    def read_all(self) -> tuple[list[Record], list[str]]:
        """Every readable record, and one line for each file that is not."""
        records, problems = [], []
        for path in self.paths():
            try:
                records.append(read_record(path))
            except UnreadableRecord as error:
                problems.append(str(error))
        return records, problems


@functools.lru_cache(maxsize=1)
def _by_settings(runs: Path, stamp: int) -> Mapping[str, list[Path]]:
    """The record files of a folder as it was at the time `stamp`: a sweep asks for each run."""
    found = defaultdict(list)
    for path in runs.glob("*.json"):
        found[_settings_part(path.stem)].append(path)
    return found


def _settings_part(run_id: str) -> str:
    return run_id.partition("-")[0]


def read_record(path: Path) -> Record:
    """Read one record file, and check every field.

    Raises:
        UnreadableRecord: If it cannot be read, is no JSON, or holds what no run writes.
    """
    try:
        record = _fields(Record, json.loads(path.read_text("utf-8")), "a record")
        _check_measurements(record.measurements)
    except (OSError, ValueError, RecursionError) as error:
        reason = f"unreadable record {path} ({type(error).__name__}: {error}), left out"
        raise UnreadableRecord(printable(reason)) from error
    return record


def printable(text: str) -> str:
    """A text with its control characters escaped, so that it can be printed and encoded."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _fields(of: type[Any], raw: Any, what: str) -> Any:
    """Build `of` from an object of JSON; keys that this version does not know are left out."""
    given = _expect(isinstance(raw, dict), raw, what, "an object")
    for f in fields(of):
        if f.default is MISSING and f.default_factory is MISSING and f.name not in given:
            raise ValueError(f"{what} must have the field {f.name}")
    return of(
        **{f.name: KINDS[f.type](given[f.name], f.name) for f in fields(of) if f.name in given}
    )


Check = Callable[[Any, str], Any]
"""Gives back a value of JSON if it is what its field, of this name, needs."""


def _expect(is_so: bool, value: Any, name: str, expected: str) -> Any:
    if not is_so:
        raise ValueError(f"{name} must be {expected}, got {str(value)[:80]!r}")
    return value


def _text(value: Any, name: str) -> str:
    return _expect(isinstance(value, str), value, name, "text")


def _number(value: Any, name: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    _expect(is_number, value, name, "a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number below 1e309") from None


def _count(value: Any, name: str) -> int:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
    return _expect(is_count, value, name, f"a whole number from 0 to {MAX_COUNT}")


def _mapping(value: Any, name: str) -> dict[str, Any]:
    _expect(isinstance(value, dict), value, name, "an object")
    if _depth(value) > MAX_DEPTH:
        raise ValueError(f"{name} must be nested at most {MAX_DEPTH} deep")
    return value


def _depth(value: Any) -> int:
    """How deep objects and lists are nested; what is too deep is not walked to its end."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        level, depth = [value for values in inner for value in values], depth + 1
    return depth


def _optional(check: Check) -> Check:
    return lambda value, name: None if value is None else check(value, name)


def _several(check: Check) -> Check:
    return lambda value, name: tuple(
        check(one, name) for one in _expect(isinstance(value, list), value, name, "a list")
    )


MAX_DEPTH = 32
"""Of settings: deeper than any configuration, and shallow enough to walk."""
MAX_COUNT = 2**53
"""Of lengths and steps: what a float still holds exactly."""
KINDS: dict[Any, Check] = {
    str: _text,
    float: _number,
    str | None: _optional(_text),
    float | None: _optional(_number),
    int | None: _optional(_count),
    Status: lambda value, _: Status(value),
    Mapping[str, Any]: _mapping,
    Mapping[str, str]: _mapping,
    tuple[float, ...]: _several(_number),
    tuple[Measurement, ...]: _several(
        lambda value, _: _fields(Measurement, value, "a measurement")
    ),
}
"""What checks a field of each type, given its value in JSON and its name."""


def _check_measurements(measurements: Sequence[Measurement]) -> None:
    for m in measurements:
        _expect(m.metric != "", m.metric, "metric", "a name")
        _expect(m.direction in ("", "lower", "higher"), m.direction, "direction", "lower or higher")
        _expect(m.seq_len != 0, m.seq_len, "seq_len", "at least 1")
    final = Counter(
        (m.metric, m.split, m.seq_len, m.attention, m.rule) for m in measurements if m.step is None
    )
    for (metric, *_), count in final.items():
        _expect(count == 1, metric, "a metric", "measured once")
