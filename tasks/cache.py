"""The folder where what was made once is kept, and how arrays and parts of it come to be there."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np


def cache_folder(cache_dir: str | None) -> Path:
    """The folder `cache_dir`; None for `attnbench` in the cache of Hugging Face (HF_HOME)."""
    from huggingface_hub.constants import HF_HOME

    return Path(cache_dir).expanduser() if cache_dir else Path(HF_HOME) / "attnbench"


def publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a draft that then becomes `folder`, all at once.

    Two processes may do it at once: the first wins, and the other's draft, which is the same, goes.

    Raises:
        OSError: If the folder cannot be written; nothing of it stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(draft)
        try:
            os.rename(draft, folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


class GrowingArray:
    """A .npy file that grows along its first axis, and need not fit into memory.

    Args:
        file: Empty, and written to from its beginning.
        dtype: Of what is appended.
        shape: Of what is appended, behind its first axis.
    """

    def __init__(self, file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...] = ()) -> None:
        self.file, self.dtype, self.shape = file, dtype, shape
        self.length = 0
        self._write_header()

    def append(self, array: np.ndarray) -> None:
        """Write (n, *shape) behind what is there."""
        assert (array.dtype, array.shape[1:]) == (self.dtype, self.shape), array.shape
        self.file.write(np.ascontiguousarray(array).tobytes())
        self.length += len(array)

    def finish(self) -> None:
        """Say in the file how long it has become."""
        self.file.seek(0)  # numpy's header has room for any length
        self._write_header()

    def _write_header(self) -> None:
        shape = (self.length, *self.shape)
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)
