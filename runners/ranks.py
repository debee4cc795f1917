"""Which of several ranks this process is, and what the ranks of a run say to one another.

The plain command starts its ranks itself (`runners.launch`): the process that was called holds the
run's lock and writes its record, the ranks work. Under torchrun or srun the processes are there
already: the first holds the lock, decides and writes, and the others follow it.
"""

import os
import pickle
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(days=1)
"""The first rank may wait so long for the lock of a run, while the others wait for it."""
GRACE_S = 5.0
"""A rank that has failed lives so long, for the first to record why before all are ended."""


def join() -> None:
    """Become one of the ranks that were started, and silent but for the first."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        slurm = SLURMEnvironment()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = (
            slurm.main_address,
            str(slurm.main_port),
        )
        os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"] = (
            str(slurm.global_rank()),
            str(slurm.local_rank()),
            str(slurm.world_size()),
        )
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
        warnings.simplefilter("ignore")


def joined() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Of this process; 0 where it is alone."""
    return dist.get_rank() if joined() else 0


def is_first() -> bool:
    """Whether this process prints and writes: it is alone, or the first of the ranks."""
    return rank() == 0


def tell(message: Any) -> Any:
    """What the first rank says, on all of them."""
    told = [message]
    if joined():
        dist.broadcast_object_list(told)
    return told[0]


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Let the first rank through alone, for what the others then find done."""
    if not is_first():
        dist.barrier()
    yield
    if joined() and is_first():
        dist.barrier()


def wait_for_all() -> None:
    """Go on when every rank is here."""
    if joined():
        dist.barrier()


def note_failure(folder: Path, error: BaseException) -> None:
    """Write down, for whoever records the run, what a rank has raised."""
    own = int(os.environ.get("RANK", 0))
    folder.mkdir(parents=True, exist_ok=True)
    with _failure(folder, own).open("wb") as file:
        pickle.dump((time.time(), _portable(error, own)), file)


def failures(folder: Path) -> dict[int, BaseException]:
    """What each rank has raised that could note it, the first to fail first."""
    noted = []
    for path in folder.glob(_failure(folder, "*").name):
        with suppress(OSError, EOFError, pickle.UnpicklingError), path.open("rb") as file:
            noted.append((*pickle.load(file), int(path.stem.rpartition("-")[2])))
    return {rank: error for _, error, rank in sorted(noted, key=lambda entry: entry[0])}


def forget_failures(folder: Path) -> None:
    """Remove what an earlier attempt has noted."""
    for path in folder.glob(_failure(folder, "*").name):
        path.unlink(missing_ok=True)


def _failure(folder: Path, rank: int | str) -> Path:
    return folder / f"failure-{rank}.pickle"


def _portable(error: BaseException, rank: int) -> BaseException:
    """An error that another process can read, with where it was raised."""
    error.add_note(f"on rank {rank}:\n" + "".join(traceback.format_exception(error)))
    with suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))
        if str(copy) == str(error):
            return copy
    return RuntimeError(f"rank {rank}: {type(error).__name__}: {error}")
