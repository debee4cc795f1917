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
    console.print(_mechanisms())
    console.print(_tasks())
    experiments = sorted(
        path.relative_to(CONF / "experiment").with_suffix("").as_posix()
        for path in (CONF / "experiment").rglob("*.yaml")
    )
    console.print("experiments: " + ", ".join(f"+experiment={name}" for name in experiments))
    present = [f"{name} {'present' if find_spec(name) else 'absent'}" for name in KERNEL_PACKAGES]
    console.print("optional kernels: " + ", ".join(present))
    return 0


def _mechanisms() -> Table:
    claimed = set(claims())
    table = Table(title="attention", title_justify="left")
    table.add_column("")
    for pattern in Pattern:
        table.add_column(pattern.value, justify="center")
    for name in names():
        marks = ["x" if (name, pattern) in claimed else "" for pattern in Pattern]
        table.add_row(name, *marks)
    return table


def _tasks() -> Table:
    table = Table(title="task", title_justify="left")
    table.add_column("")
    for pattern in Pattern:
        table.add_column(pattern.value, justify="center")
    for path in sorted((CONF / "task").rglob("*.yaml")):
        task = get_class(OmegaConf.load(path).model._target_)
        name = path.relative_to(CONF / "task").with_suffix("").as_posix()
        table.add_row(name, *("x" if pattern in task.patterns else "" for pattern in Pattern))
    return table
