"""Where a number came from: the version and commit of attnbench, libraries and the machine."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import tomllib
from typing import Any

import torch

from runners.fingerprint import PACKAGES, ROOT


def environment() -> dict[str, Any]:
    """The versions, the machine and the commit that a number came from."""
    return {**_lasting(), "num_threads": torch.get_num_threads()}


@functools.cache
def _lasting() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "attnbench": version(),
        **_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "host": platform.node(),
    }


@functools.cache
def version() -> str | None:
    """The version of attnbench: of this checkout, or of the package installed."""
    project = ROOT / "pyproject.toml"
    if project.exists():
        return tomllib.loads(project.read_text())["project"]["version"]
    try:
        return importlib.metadata.version("attnbench")
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """The commit of attnbench, and whether its files differ from it.

    An installed package can lie in the repository of something else, whose commit says nothing.
    """
    if _git("ls-files", "--error-unmatch", "runners/environment.py") is None:
        return {"git_commit": None, "git_dirty": None}
    changed = _git("status", "--porcelain", "--", *PACKAGES, "conf")
    return {"git_commit": _git("rev-parse", "HEAD"), "git_dirty": bool(changed)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    info = "/proc/cpuinfo"
    if os.path.exists(info):
        with open(info) as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor()
