"""`attnbench list`: what can be combined."""

from importlib.util import find_spec

from hydra.utils import get_class
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from attentions.base import Pattern
from attentions.registry import CONF, claims, names

KERNEL_PACKAGES = ("flash_attn", "xformers", "fla")


def main() -> int:
    """Print mechanisms x patterns, tasks x patterns, experiments, and the optional kernels."""
    console = Console()
    claimed = set(claims())
    mechanisms = {name: [(name, pattern) in claimed for pattern in Pattern] for name in names()}
    console.print(_matrix("attention", mechanisms))
    console.print(_matrix("task", _tasks()))
    for name in _choices("experiment"):
        if "/place/" not in name:  # a part of the quick start, no experiment of its own
            console.print(f"experiment  +experiment={name}")
    for package in KERNEL_PACKAGES:
        console.print(f"kernels     {package} {'present' if find_spec(package) else 'absent'}")
    return 0


def _tasks() -> dict[str, list[bool]]:
    offered = {}
    for name in _choices("task"):
        target = OmegaConf.load(CONF / "task" / f"{name}.yaml").model._target_
        offered[name] = [pattern in get_class(target).patterns for pattern in Pattern]
    return offered


def _choices(group: str) -> list[str]:
    folder = CONF / group
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def _matrix(title: str, rows: dict[str, list[bool]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for pattern in Pattern:
        table.add_column(pattern.value.replace("_", "\n"), justify="center")
    for name, marks in rows.items():
        table.add_row(name, *("x" if mark else "" for mark in marks))
    return table
