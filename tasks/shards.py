"""Rows of a generated data set, made a shard at a time where they are first read, and then kept.

A shard depends on the settings, the seed and its number alone: it is the same on any machine and
for any number of processes that share the folder. A process that needs a shard which another one is
making makes the next one in the meantime, so that readers which go through the rows in their order
share the work.
"""

import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.cache import cache_folder

SHARD_ROWS = 1024
FORMAT = 1
"""Of the folders; another number leaves the old ones aside."""

Make = Callable[[Sequence[int], int], Mapping[str, np.ndarray]]
"""Rows from a seed, which are the numbers to seed a generator with, and their count."""


class Shards:
    """Generated rows, mapped into memory.

    Args:
        name: Of the data set.
        version: Of its generator: rows that another version made are never read.
        settings: What the rows depend on beside the seed, as JSON can hold it.
        seed: Of all rows.
        num_rows: How many there are.
        fields: The shape of a row of each array, and its type.
        make: Makes the rows of a shard; the number of a shard is the last part of its seed.
        cache_dir: See `tasks.cache.cache_folder`.

    Raises:
        OSError: If the folder cannot be written.
    """

    in_order_first = True
    """Independent draws; see `tasks.data.EpochBatches`."""

    def __init__(
        self,
        name: str,
        *,
        version: int,
        settings: Mapping[str, Any],
        seed: int,
        num_rows: int,
        fields: Mapping[str, tuple[tuple[int, ...], str]],
        make: Make,
        cache_dir: str | None = None,
    ) -> None:
        self.num_rows, self.seed, self.fields, self.make = num_rows, seed, fields, make
        of = [FORMAT, name, version, settings, seed, num_rows, fields]
        key = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = cache_folder(cache_dir) / "generated" / f"{name}-{key}"

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, rows: Tensor) -> dict[str, Tensor]:
        """The rows of each array, with the types of `fields`."""
        self.need(rows)
        chosen = rows.numpy()
        return {name: torch.from_numpy(array[chosen]) for name, array in self._arrays.items()}

    def need(self, rows: Tensor) -> None:
        """Make the shards that hold these rows, if nobody has."""
        for shard in (rows // SHARD_ROWS).unique().tolist():
            while not self._is_made(shard):
                if not self._try(shard):
                    self._help(shard)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    def __del__(self) -> None:
        with suppress(KeyError, OSError):
            os.close(vars(self)["_marks"])

    @property
    def _num_shards(self) -> int:
        return -(-self.num_rows // SHARD_ROWS)

    @functools.cached_property
    def _seen(self) -> set[int]:
        """The shards that are known to be made."""
        return set()

    @functools.cached_property
    def _marks(self) -> int:
        """The open file with a byte for each shard, which is 1 when the shard is made.

        The bytes are what processes lock too. Closing any other descriptor of the file would free
        the locks of this process, so it is read through this one alone.
        """
        if not self._is_whole():
            self._create()
        return os.open(self.folder / "made", os.O_RDWR)

    @functools.cached_property
    def _arrays(self) -> dict[str, np.memmap]:
        return {name: np.lib.format.open_memmap(self._path(name), "r") for name in self.fields}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _is_whole(self) -> bool:
        """Whether the folder is there with files of the right size, which a full disk may cut."""
        try:
            if os.path.getsize(self.folder / "made") != self._num_shards:
                return False
            return all(
                np.load(self._path(name), mmap_mode="r").shape == (self.num_rows, *shape)
                for name, (shape, _) in self.fields.items()
            )
        except (OSError, ValueError, EOFError):  # the last where a file is empty
            return False

    def _create(self) -> None:
        """Make the folder with empty files, at once; the first of several processes wins."""
        parent = self.folder.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=parent))
        except OSError as error:
            why = f"generated rows cannot be kept in {parent}, see cache_dir: {error.strerror}"
            raise OSError(error.errno, why) from error
        try:
            for name, (shape, dtype) in self.fields.items():
                np.lib.format.open_memmap(
                    draft / f"{name}.npy", "w+", np.dtype(dtype), (self.num_rows, *shape)
                )
            (draft / "made").write_bytes(bytes(self._num_shards))
            with suppress(OSError):
                os.rename(draft, self.folder)
            if not self._is_whole():  # cut off: the rows can be had again
                shutil.rmtree(self.folder, ignore_errors=True)
                os.rename(draft, self.folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _is_made(self, shard: int) -> bool:
        if shard not in self._seen and os.pread(self._marks, 1, shard) == b"\1":
            self._seen.add(shard)
        return shard in self._seen

    def _try(self, shard: int, *, wait: bool = False) -> bool:
        """Make a shard; False if another process is at it."""
        try:
            fcntl.lockf(self._marks, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, shard)
        except BlockingIOError:
            return False
        try:
            if not self._is_made(shard):
                self._write(shard)
        finally:
            fcntl.lockf(self._marks, fcntl.LOCK_UN, 1, shard)
        return True

    def _help(self, shard: int) -> None:
        """While another process makes this shard, make the next that nobody does; else wait."""
        for ahead in range(shard + 1, self._num_shards):
            if not self._is_made(ahead) and self._try(ahead):
                return
        self._try(shard, wait=True)

    def _write(self, shard: int) -> None:
        begin = shard * SHARD_ROWS
        count = min(SHARD_ROWS, self.num_rows - begin)
        made = self.make((self.seed, shard), count)
        for name, (shape, dtype) in self.fields.items():
            rows = np.ascontiguousarray(made[name], dtype=np.dtype(dtype))
            assert rows.shape == (count, *shape), (name, rows.shape)
            row_bytes = rows.nbytes // count
            with self._path(name).open("r+b") as file:
                # Written, not stored through a map: a full disk is an error and not a signal.
                file.seek(self._arrays[name].offset + begin * row_bytes)
                file.write(rows.data)
                file.flush()
                os.fsync(file.fileno())
        os.pwrite(self._marks, b"\1", shard)
