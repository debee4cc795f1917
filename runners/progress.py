"""How the jobs of a sweep report to its display: one line of JSON each, appended to one file.

A file works for every launcher: processes, SLURM, Ray. Short appended lines do not interleave.
"""

import json
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """One thing that happened: to the sweep (`launched`) or a run (the other kinds).

    `started`, `ended` and `skipped` say what they mean; an `endangered` run has started where
    another had just died, in a pool of workers about to be killed.
    """

    run_id: str
    name: str
    kind: str
    status: str = ""
    error: str = ""


class Progress:
    """The progress file of a sweep; without a path (a single run) nothing is told."""

    def __init__(self, path: str | Path | None) -> None:
        self.path = Path(path) if path else None

    def tell(self, run_id: str, name: str, kind: str, status: str = "", error: str = "") -> None:
        """Append one event."""
        if self.path is None:
            return
        event = Event(run_id, name, kind, status, error[:300])
        line = json.dumps(vars(event)) + "\n"
        with suppress(OSError):  # a full disk must not end a run for the sake of its display
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)

    def events(self) -> list[Event]:
        """Everything told so far."""
        if self.path is None or not self.path.exists():
            return []
        whole_lines = self.path.read_text().splitlines(keepends=True)
        return [Event(**json.loads(line)) for line in whole_lines if line.endswith("\n")]

    def launch(self) -> None:
        """Tell that the workers start, for the first time or after the death of one."""
        self.tell("", "", "launched")

    def start(self, run_id: str, name: str) -> None:
        """Tell that a run starts; its death will not count where another has just died alone."""
        events = self.events()
        dead = deaths(events)
        latest = since_launch(events)
        endangered = any(event.kind == "started" and dead[event.run_id] > 1 for event in latest)
        self.tell(run_id, name, "endangered" if endangered else "started")


def since_launch(events: list[Event]) -> list[Event]:
    """What was told since the workers started last."""
    launches = [place for place, event in enumerate(events) if event.kind == "launched"]
    return events[launches[-1] + 1 :] if launches else events


def over(events: list[Event]) -> list[Event]:
    """How each run went that the sweep has run, or found ended already."""
    return [event for event in events if event.kind in ("ended", "skipped")]


def deaths(events: list[Event]) -> Counter[str]:
    """How often each run was started without ever ending."""
    starts = Counter(event.run_id for event in events if event.kind == "started")
    for event in over(events):
        del starts[event.run_id]
    return starts
