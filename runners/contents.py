"""Hashes of data files by their content, each computed once."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from runners.files import whole

SETTLED_S = 3.0
"""A file that changed so lately may change again within the resolution of its time stamps."""


def digest_of(path: Path, cache: Path, leave_out: tuple[Path, ...] = ()) -> str | None:
    """A hash of a file, or of all files below a folder; None where it cannot be read.

    Names that begin with a dot are left out of a folder.

    Args:
        path: The file or folder.
        cache: A folder that keeps the hashes. Writers can share it.
        leave_out: Folders that are no part of `path` though they lie in it.
    """
    key = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    kept_at = cache / f"{key}.json"
    kept, fresh = _kept(kept_at), {}
    digest = hashlib.sha256()
    try:
        files = sorted(_below(path, leave_out)) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path).as_posix()
            content, stamp = _content(file, kept.get(name))
            digest.update(f"{name}\0{content}\n".encode())
            if stamp is not None:
                fresh[name] = [stamp, content]
    except OSError:  # the run will tell
        return None
    if fresh != kept:
        _keep(kept_at, fresh)
    return digest.hexdigest()[:16]


def _content(path: Path, known: list[Any] | None) -> tuple[str, list[int] | None]:
    """The hash of a file, and its stamp if the next one can go by that."""
    stamp = _stamp(path)
    if known is not None and known[0] == stamp:
        return known[1], stamp
    begun = time.time()
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    *_, modified, changed = stamp
    is_settled = begun - max(modified, changed) / 1e9 > SETTLED_S
    return content, stamp if is_settled and _stamp(path) == stamp else None


def _stamp(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_ino, about.st_mtime_ns, about.st_ctime_ns]


def _below(folder: Path, leave_out: tuple[Path, ...]) -> Iterator[Path]:
    visited = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = Path(here).resolve()
        if real in visited or real in leave_out:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = (Path(here) / name for name in names if not name.startswith("."))
        yield from (file for file in files if file.is_file())


def _kept(path: Path) -> dict[str, list[Any]]:
    try:
        kept = json.loads(path.read_text())
        return {name: [list(stamp), str(content)] for name, (stamp, content) in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep(path: Path, kept: dict[str, list[Any]]) -> None:
    with suppress(OSError), whole(path) as file:  # it saves time, no more
        json.dump(kept, file)
