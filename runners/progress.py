"""How the jobs of a sweep report to its display: one line of JSON each, appended to one file.

A file works for every launcher: processes, SLURM, Ray. Short appended lines do not interleave.
"""

import fcntl
import functools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

NEW_S = 60.0
"""A file so new may belong to a sweep that has not locked it yet."""


@dataclass(frozen=True)
class Event:
    """One thing that happened: to the sweep (`launched`) or a run (the other kinds).

    `started`, `ended` and `skipped` say what they mean; an `endangered` run has started where
    another had just died, in a pool of workers about to be killed. A `note` is for the reader: when
    a skipped run was recorded, where a run resumes.
    """

    run_id: str
    name: str
    kind: str
    status: str = ""
    error: str = ""
    note: str = ""


class Progress:
    """The progress file of a sweep; without a path (a single run) nothing is told.

    What has been read is kept, so that a sweep of many runs does not read its file for each.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = Path(path) if path else None
        self._events: list[Event] = []
        self._num_read = 0
        self._over: set[str] = set()
        self._deaths: Counter[str] = Counter()
        self._latest: set[str] = set()

    @staticmethod
    @functools.cache
    def at(path: str | None) -> "Progress":
        """The one of a worker, which all its runs share."""
        return Progress(path)

    def tell(
        self, run_id: str, name: str, kind: str, status: str = "", error: str = "", note: str = ""
    ) -> None:
        """Append one event."""
        if self.path is None:
            return
        event = Event(run_id, name, kind, status, error[:300], note[:300])
        line = json.dumps(vars(event)) + "\n"
        with suppress(OSError):  # a full disk must not end a run for the sake of its display
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)

    def events(self) -> list[Event]:
        """Everything told so far."""
        self._read()
        return list(self._events)

    def is_over(self, run_id: str) -> bool:
        """Whether the sweep has run this, or found it ended already."""
        self._read()
        return run_id in self._over

    def deaths(self) -> Counter[str]:
        """How often each run was started without ever ending."""
        self._read()
        return self._deaths

    def launch(self) -> None:
        """Tell that the workers start, for the first time or after the death of one."""
        self.tell("", "", "launched")

    def start(self, run_id: str, name: str, note: str = "") -> None:
        """Tell that a run starts; its death will not count where another has just died alone."""
        self._read()
        endangered = any(self._deaths[other] > 1 for other in self._latest)
        self.tell(run_id, name, "endangered" if endangered else "started", note=note)

    def _read(self) -> None:
        """Take in what has been told since, but for a line that is half written."""
        if self.path is None or not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._num_read)
            told = file.read()
        told = told[: told.rfind(b"\n") + 1]
        self._num_read += len(told)
        for line in told.splitlines():
            event = Event(**json.loads(line))
            self._events.append(event)
            if event.kind == "launched":
                self._latest.clear()
            elif event.kind in ("ended", "skipped"):
                self._over.add(event.run_id)
                self._latest.discard(event.run_id)
                del self._deaths[event.run_id]
            elif event.kind == "started" and event.run_id not in self._over:
                self._latest.add(event.run_id)
                self._deaths[event.run_id] += 1


@contextmanager
def progress_file(results: Path) -> Iterator[str]:
    """A new progress file among the results, where every machine of a cluster sees it.

    What killed sweeps left there is removed.
    """
    results.mkdir(parents=True, exist_ok=True)
    for left in results.glob(".sweep-*.jsonl"):
        with suppress(OSError), left.open() as file:  # OSError: its sweep lives, and holds it
            if time.time() - left.stat().st_mtime > NEW_S:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
    with tempfile.NamedTemporaryFile(prefix=".sweep-", suffix=".jsonl", dir=results) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.name


def since_launch(events: list[Event]) -> list[Event]:
    """What was told since the workers started last."""
    launches = [place for place, event in enumerate(events) if event.kind == "launched"]
    return events[launches[-1] + 1 :] if launches else events


def over(events: list[Event]) -> list[Event]:
    """How each run went that the sweep has run, or found ended already."""
    return [event for event in events if event.kind in ("ended", "skipped")]
