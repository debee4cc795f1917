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
    """One thing that happened to a run: `started`, `skipped` or `ended`."""

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

    def deaths(self, run_id: str) -> int:
        """How often a run was started without ever ending."""
        kinds = Counter(event.kind for event in self.events() if event.run_id == run_id)
        return kinds["started"] - kinds["ended"]
