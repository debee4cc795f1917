"""The folder where what was made once is kept, and how a part of it comes to be there."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


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
