"""Files that many processes write: a reader sees all of one or nothing of it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def whole(path: Path, prefix: str = ".") -> Iterator[TextIO]:
    """A file that takes the place of `path` once it is written and on the disk.

    Args:
        path: What is to be written. Its folder is made.
        prefix: Of the temporary file beside it, which a killed writer leaves.

    Raises:
        OSError: If the folder cannot be written or the disk is full; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=prefix, dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
