"""A user's mistakes: each is told in one line, with the thing, the value and what was expected."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

CONF = Path(__file__).resolve().parents[1] / "conf"


class UserError(Exception):
    """A mistake on the command line, told in one line."""


class NothingRecorded(BaseException):
    """A run of a sweep that could leave no record: the disk is full, say, and so for all others.

    No `Exception`, so that launchers do not go on to the next run.
    """


def is_mistake(error: Exception) -> bool:
    """Whether a line says enough of an error, and its traceback would say nothing more."""
    names = {cls.__module__.split(".")[0] for cls in type(error).__mro__}
    return isinstance(error, UserError | OSError | ValueError) or bool(
        names & {"hydra", "omegaconf"}
    )


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """What to say of a name that is not among the known."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})"


def one_line(error: BaseException) -> str:
    """The message of an error; those of Hydra, which are long, in our words."""
    from hydra.errors import MissingConfigException

    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).partition("/")
        # Hydra names the folders that it has searched.
        folders = [Path(folder) for folder in re.findall(r"path=file://(.+)", str(error))]
        return unknown(group, name, _choices(group, folders))
    text = str(error)
    if match := re.match(r"Could not override '(.+)'", text):
        return _unknown_setting(match[1])
    if match := re.match(r"Ambiguous value for argument '(.+)'", text):
        return f"{match[1]} is a sweep, which needs -m; a list is written {_as_list(match[1])}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__


def _as_list(argument: str) -> str:
    key, _, values = argument.partition("=")
    return f"{key}=[{values}]"


def _choices(group: str, folders: Sequence[Path]) -> list[str]:
    """The choices of a group, those of nested folders too."""
    return sorted(
        path.relative_to(folder / group).with_suffix("").as_posix()
        for folder in folders
        for path in (folder / group).rglob("*.yaml")
    )


def _unknown_setting(name: str) -> str:
    """Name the nearest of all settings that the package has."""
    known = set()
    for path in CONF.rglob("*.yaml"):
        known |= set(re.findall(r"^\s*(\w+):", path.read_text(), re.MULTILINE))
    near = difflib.get_close_matches(name.rpartition(".")[2], sorted(known), n=1)
    hint = f", did you mean {near[0]!r}?" if near and near[0] not in name.split(".") else ""
    return f"unknown setting {name!r}{hint} (--cfg job shows those there are)"
