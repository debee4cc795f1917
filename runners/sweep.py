"""The live display around a sweep, and the report at its end: a Hydra callback.

The jobs report through a file (runners/progress.py), so the display works with every launcher.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from runners.progress import Progress, over
from runners.records import RecordStore

ENDED_BADLY = ("failed", "oom", "timeout")


class SweepCallback(Callback):
    """Shows a sweep from its start to its end, then writes its report."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start the display, or go on with it when a sweep was taken up again."""
        folder = Path(config.run.results) / config.run.sweep
        RecordStore(folder).tidy()
        Display.start(Progress(config.run.progress), _num_jobs(config), folder)


def _num_jobs(config: DictConfig) -> int:
    """The length of the list that Hydra's sweeper is about to make."""
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(
        [*parameters, *config.hydra.overrides.task]
    )
    return sum(map(len, BasicSweeper.split_arguments(parsed, max_batch_size=None)))


class Display:
    """Done, left, failed and time of a sweep: live on a terminal, a line per run elsewhere."""

    current: "Display | None" = None
    """There is one sweep per process."""

    @classmethod
    def start(cls, progress: Progress, total: int, folder: Path) -> None:
        """Show a sweep of `total` runs, if it is not shown already."""
        if cls.current is None:
            cls.current = cls(progress, total, folder)
            cls.current.thread.start()

    def __init__(self, progress: Progress, total: int, folder: Path) -> None:
        self.progress = progress
        self.total = total
        self.folder = folder
        self.console = Console(stderr=True)
        self.started_at = time.monotonic()
        self.num_printed = 0
        self.finished = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[outlook]}"),
            console=self.console,
        )
        self.task = self.bar.add_task("sweep", total=total, outlook="")

    def close(self) -> None:
        """Stop showing."""
        self.finished.set()
        self.thread.join()

    def finish(self, command: str) -> int:
        """Stop showing, write the report, and return the exit code."""
        self.close()
        ended = over(self.progress.events())
        bad = sum(event.status in ENDED_BADLY for event in ended)
        seconds = time.monotonic() - self.started_at
        print(f"{len(ended)} of {self.total} runs, {bad} failed, {seconds:.0f} s", file=sys.stderr)
        if any(RecordStore(self.folder).paths()):
            from runners.report.report import write_report

            write_report([self.folder], self.folder / "report", command)
        return int(bad > 0)

    def _watch(self) -> None:
        if not self.console.is_terminal:
            while not self.finished.wait(0.5):
                self._print_new()
            self._print_new()
            return
        with Live(self._render(), console=self.console, refresh_per_second=4) as live:
            while not self.finished.wait(0.25):
                live.update(self._render())
            live.update(self._render())

    def _print_new(self) -> None:
        for event in over(self.progress.events())[self.num_printed :]:
            self.num_printed += 1
            already = "already " if event.kind == "skipped" else ""
            note = f" ({event.note})" if event.note else ""
            why = f": {event.error}" if event.error else ""
            told = f"{already}{event.status}{note}{why}"
            line = f"[{self.num_printed}/{self.total}] {event.name}: {told}"
            print(line, file=sys.stderr, flush=True)

    def _render(self) -> Group:
        events = self.progress.events()
        ended = over(events)
        ids = {event.run_id for event in ended}
        begun = {
            e.run_id: e.name
            for e in events
            if e.kind in ("started", "endangered") and e.run_id not in ids
        }
        bad = [e for e in ended if e.status in ENDED_BADLY]
        skipped = sum(e.kind == "skipped" for e in ended)
        outlook = f"{self.total - len(ended)} left, {len(bad)} failed, {skipped} skipped"
        ran = len(ended) - skipped
        if ran:
            left = (self.total - len(ended)) * (time.monotonic() - self.started_at) / ran
            outlook += f", about {left / 60:.0f} min" if left > 90 else f", about {left:.0f} s"
        self.bar.update(self.task, completed=len(ended), outlook=outlook)
        lines = [Text(f"  running  {name}", style="dim") for name in begun.values()]
        lines += [Text(f"  {e.status}  {e.name}: {e.error}", style="red") for e in bad[-5:]]
        return Group(self.bar, *lines)
