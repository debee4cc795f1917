"""Whose checkpoints lie in the folder of a run: a run resumes from those of its own code alone."""

import json
import shutil
from pathlib import Path
from typing import Any


def claim(folder: Path, code: dict[str, Any], *, anew: bool) -> str:
    """Make the folder that of a run by this code; what was done with earlier checkpoints.

    Args:
        folder: Where the run keeps its checkpoints.
        code: What their numbers depend on beyond the identity of the run.
        anew: Start over in any case.
    """
    told = ""
    if any(folder.glob("*.ckpt")):
        if anew:
            told = (
                "starts anew, as run.force=true asks; the checkpoint of an earlier run is removed"
            )
            shutil.rmtree(folder)
        elif _owner(folder) != code:
            aside = folder.with_name(f"{folder.name}.other-code")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            told = f"starts anew: other code made the checkpoint, which is now in {aside}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    _note(folder).write_text(json.dumps(code))
    return told


def release(folder: Path) -> None:
    """Forget a run that has left no checkpoint."""
    if not any(folder.glob("*.ckpt")):
        _note(folder).unlink(missing_ok=True)


def _owner(folder: Path) -> Any:
    try:
        return json.loads(_note(folder).read_text())
    except (OSError, ValueError):
        return None


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")  # beside it: the training may empty it
