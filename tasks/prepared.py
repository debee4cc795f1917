"""Arrays made of real files, once: kept on disk and mapped into memory.

What cannot be read is left out, named and counted, before anything is trained on the rest. So no
epoch ends at a broken file, and a file is decoded once and not in every epoch.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import joblib
import numpy as np

from tasks.cache import GrowingArray, cache_folder, publish

FORMAT = 1
"""Of the folders; another number leaves the old ones aside."""
NAMED = 3
"""Of what was left out, in a message."""


class Unusable(ValueError):
    """An item that cannot be used. Its text names the file and what is wrong with it."""


class Item(NamedTuple):
    """What one row is made of.

    Attributes:
        name: Of the row, in messages and results.
        files: What it is read from.
        about: What else it depends on, as JSON can hold it.
    """

    name: str
    files: tuple[Path, ...]
    about: Any = None


Read = Callable[[Item], Mapping[str, np.ndarray]]
"""The arrays of an item; raises `Unusable`, or the OSError of its file."""


@dataclass(frozen=True)
class Prepared:
    """The usable items, one behind the other.

    Attributes:
        names: Of the items.
        left_out: Why each of the others is not there, and which file it was.
        arrays: All items of each field, joined along the first axis.
        ends: Where each item ends in its array, int64 (items,).
    """

    names: list[str]
    left_out: list[str]
    arrays: Mapping[str, np.ndarray]
    ends: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.names)

    def get(self, field: str, item: int) -> np.ndarray:
        """What an item has in a field: a view of the file, with the shape that was given."""
        ends = self.ends[field]
        return self.arrays[field][ends[item - 1] if item else 0 : ends[item]]

    def lengths(self, field: str) -> np.ndarray:
        """How long each item is along the first axis of a field, int64 (items,)."""
        return np.diff(self.ends[field], prepend=0)


def prepare(
    name: str,
    items: Sequence[Item],
    read: Read,
    *,
    version: int,
    settings: Mapping[str, Any],
    cache_dir: str | None = None,
    num_workers: int = 0,
) -> Prepared:
    """The arrays of the items that can be used, in the order of the items.

    Made again when a file has another size or time, and when the settings or the version differ.

    Args:
        name: Of the data set, in messages.
        items: What the rows are read from.
        read: Of any item the same fields, each with the same type and the same shape but for the
            first axis. A module's function where there are workers.
        version: Of `read`.
        settings: What `read` depends on beside the item, as JSON can hold it.
        cache_dir: See `tasks.cache.cache_folder`.
        num_workers: Processes that read; 0 reads in this one.

    Raises:
        ValueError: If no item can be used.
        OSError: If the cache cannot be written.
    """
    of = [FORMAT, name, version, settings, [_identity(item) for item in items]]
    key = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder(cache_dir) / "prepared" / f"{name}-{key}"
    if not folder.exists():
        publish(folder, lambda draft: _write(draft, items, read, num_workers))
    about = json.loads((folder / "about.json").read_text())
    left_out = about["left_out"]
    if left_out:
        told = "; ".join(left_out[:NAMED]) + ("; ..." if len(left_out) > NAMED else "")
        if not about["names"]:
            raise ValueError(f"{name}: none of {len(items)} items can be used: {told}")
        warnings.warn(f"{name}: {len(left_out)} of {len(items)} left out: {told}", stacklevel=2)
    elif not items:
        raise ValueError(f"{name}: there are no items")
    fields = about["fields"]
    arrays = {field: np.load(folder / f"{field}.npy", mmap_mode="r") for field in fields}
    ends = {field: np.load(folder / f"{field}.ends.npy") for field in fields}
    return Prepared(about["names"], left_out, arrays, ends)


def _identity(item: Item) -> list[Any]:
    """What tells an item from the one that it was."""
    files = []
    for file in item.files:
        try:
            stat = file.stat()
            files.append([str(file.absolute()), stat.st_size, stat.st_mtime_ns])
        except OSError:  # `read` will say so
            files.append([str(file.absolute()), None, None])
    return [item.name, files, item.about]


def _write(folder: Path, items: Sequence[Item], read: Read, num_workers: int) -> None:
    columns: dict[str, GrowingArray] = {}
    ends: dict[str, list[int]] = {}
    names, left_out = [], []
    pool = joblib.Parallel(n_jobs=max(num_workers, 1), return_as="generator")
    tasks = (joblib.delayed(_try)(read, item) for item in items)
    made = cast(Iterator[Mapping[str, np.ndarray] | str], pool(tasks))
    with ExitStack() as files:
        for item, arrays in zip(items, made, strict=True):
            if isinstance(arrays, str):
                left_out.append(arrays)
                continue
            for field, array in arrays.items():
                if field not in columns:
                    file = files.enter_context((folder / f"{field}.npy").open("wb"))
                    columns[field] = GrowingArray(file, array.dtype, array.shape[1:])
                    ends[field] = []
                columns[field].append(array)
                ends[field].append(columns[field].length)
            names.append(item.name)
        for column in columns.values():
            column.finish()
    for field, of_items in ends.items():
        np.save(folder / f"{field}.ends.npy", np.array(of_items, dtype=np.int64))
    about = {"names": names, "left_out": left_out, "fields": list(columns)}
    (folder / "about.json").write_text(json.dumps(about))


def _try(read: Read, item: Item) -> Mapping[str, np.ndarray] | str:
    """Its arrays, or why there are none."""
    try:
        return read(item)
    except Unusable as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or item.files[0]}: {error.strerror or error}"
