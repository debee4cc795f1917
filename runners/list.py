"""`attnbench list`: what can be combined."""

from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from hydra.utils import get_class
from omegaconf import OmegaConf
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from attentions.base import Pattern
from attentions.registry import CONF, claims, names

KERNEL_PACKAGES = ("flash_attn", "xformers", "fla")


def main() -> int:
    """Print mechanisms x patterns, tasks x patterns, experiments, and the optional kernels."""
    console = Console()
    console.print("pattern  " + "  ".join(f"{p.short} {p.value}" for p in Pattern))
    claimed = set(claims())
    mechanisms = {name: [(name, pattern) in claimed for pattern in Pattern] for name in names()}
    sources = {name: _header(CONF / "attention" / f"{name}.yaml") for name in names()}
    console.print(_matrix("attention", mechanisms, sources))
    console.print(_matrix("task", _tasks()))
    for name in _choices("experiment"):
        # What does not say how it is run is a part of another.
        if "# Run:" in (CONF / "experiment" / f"{name}.yaml").read_text("utf-8"):
            console.print(f"experiment  +experiment={name}")
    for package in KERNEL_PACKAGES:
        console.print(f"kernels     {package} {'present' if find_spec(package) else 'absent'}")
    return 0


def _tasks() -> dict[str, list[bool]]:
    offered = {}
    for name in _choices("task"):
        offered[name] = [pattern in get_class(_target(name)).patterns for pattern in Pattern]
    return offered


def _target(task: str) -> str:
    """The class of a task; settings that state their differences alone have that of another."""
    settings = OmegaConf.load(CONF / "task" / f"{task}.yaml")
    found = OmegaConf.select(settings, "model._target_")
    return found or _target(settings.defaults[0].partition("@")[0])


def _choices(group: str) -> list[str]:
    folder = CONF / group
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def _header(path: Path) -> str:
    """The comment at the top of a YAML file: where the mechanism comes from and what it costs."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return " ".join(line.lstrip("# ") for line in lines)


class OneLine:
    """A text cut to the width that is left: a column told not to wrap would squeeze the others."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = Text(self.text)
        text.truncate(options.max_width, overflow="ellipsis")
        yield text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(10, len(self.text))


def _matrix(
    title: str, rows: dict[str, list[bool]], remarks: dict[str, str] | None = None
) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for pattern in Pattern:
        table.add_column(pattern.short, justify="center", no_wrap=True)
    if remarks:
        table.add_column("source, cost")
    for name, marks in rows.items():
        remark = [OneLine(remarks[name])] if remarks else []
        table.add_row(name, *("x" if mark else "" for mark in marks), *remark)
    return table
