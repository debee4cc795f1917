"""A run on several devices of this machine: its ranks are started by torch's elastic launcher."""

import importlib
import logging
import os
import pickle
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

from attentions.base import Unavailable
from runners import devices, ranks
from runners.run import Run
from runners.started import num_started
from runners.stopping import Stopped, stoppable

LOGGERS = ("torch.distributed.elastic", "torch.distributed.launcher")


class RankDied(RuntimeError):
    """A rank ended without a word; the message names it and how."""


def trainer_settings(config: DictConfig) -> dict[str, Any]:
    """The arguments of the Trainer: those of the task, and over them those that were given."""
    task, own = (
        OmegaConf.to_container(group, resolve=True)
        for group in (config.task.trainer, config.trainer)
    )
    assert isinstance(task, dict)
    assert isinstance(own, dict)
    given = {key: value for key, value in own.items() if value is not None}
    return {str(key): value for key, value in (task | given).items()}


def num_ranks(config: DictConfig) -> int:
    """How many ranks a run is to have, on all its machines.

    Raises:
        Unavailable: If this machine has fewer devices.
        ValueError: If they do not fit those that torchrun or srun has started; if they are to be on
            several machines and nobody has started them there.
    """
    trainer, started = trainer_settings(config), num_started()
    asked, num_nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    is_cuda = devices.find(config.device).type == "cuda"
    if isinstance(asked, list):
        count, needed = len(asked), max(asked) + 1
    elif asked in (-1, "auto"):
        present = torch.cuda.device_count() if is_cuda else 1
        count = needed = started // num_nodes if started > 1 else present
    else:
        count = needed = int(asked)
    if is_cuda and started == 1 and needed > torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise Unavailable(f"trainer.devices={asked}: this machine has {found} CUDA devices")
    if started > 1 and started != count * num_nodes:
        raise ValueError(
            f"{started} ranks were started, but trainer.devices={asked} x trainer.num_nodes="
            f"{num_nodes} is {count * num_nodes}"
        )
    if num_nodes > 1 and started == 1:
        raise ValueError(
            f"trainer.num_nodes={num_nodes}: ranks on other machines must be started there, by "
            f"srun or by torchrun --nnodes={num_nodes} --nproc-per-node={count}"
        )
    return count * num_nodes


def start(command: str, run: Run, size: int) -> None:
    """Run the body of `command` on `size` ranks here; `run` gets what the first of them adds.

    When one fails, the others are ended; what was measured until then is kept.

    Raises:
        BaseException: What the rank raised that failed first.
        RankDied: If it could not say.
        Stopped: If a signal ends this process.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "ERROR"
    )  # for the ranks: DDP warns of its own default
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
    )
    config = OmegaConf.to_container(run.config, resolve=True)
    with tempfile.TemporaryDirectory(prefix="attnbench.") as folder:
        told = Path(folder)
        try:
            elastic_launch(launch, _work)(command, config, run.run_id, run.folder, run.labels, told)
        except SignalException as signal:
            raise Stopped(int(signal.sigval)) from None
        except ChildFailedError as failed:
            raise _reason(ranks.failures(told), failed.failures, size) from None
        finally:
            for labels, measurement in _read(told / "measured"):
                run.labels |= labels
                run.measurements += [measurement] if measurement is not None else []


def _work(
    command: str,
    config: Mapping[str, Any],
    run_id: str,
    folder: Path,
    labels: dict[str, Any],
    told: Path,
) -> None:
    """The life of a rank."""
    number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        with stoppable():
            cores = (os.cpu_count() or 1) // size
            torch.set_num_threads(config["run"]["threads"] or max(cores, 1))
            ranks.join()
            journal = told / "measured" if number == 0 else None
            run = Run(run_id, OmegaConf.create(dict(config)), folder, labels, journal=journal)
            importlib.import_module(f"runners.{command}").measure(run)
            run.note(None)
            ranks.wait_for_all()
    except BaseException as error:  # whatever it is: the process that started this one tells
        ranks.note_failure(told, error)
        sys.stderr.flush()
        os._exit(1)  # without waiting for the other ranks, which may be waiting for this one


def _reason(noted: dict[int, BaseException], seen: Mapping[int, Any], size: int) -> BaseException:
    """Why a run on ranks has failed.

    Args:
        noted: What ranks have raised, the first to fail first.
        seen: How those ended that the launcher saw end.
        size: How many there are.
    """
    why = "perhaps for want of memory"
    for rank, failure in seen.items():
        if failure.exitcode < 0 and -failure.exitcode != SIGTERM:  # by which the launcher ends them
            return RankDied(f"rank {rank} of {size} died of {failure.signal_name()}, {why}")
    silent = sorted(set(range(size)) - noted.keys())
    first = next(iter(noted.values()), None)
    if first is None or (silent and _misses_another(first)):
        rank = min(silent)
        return RankDied(f"rank {rank} of {size} died without a word, {why}")
    return first


def _misses_another(error: BaseException) -> bool:
    """Whether a rank failed because it lost the connection to another."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def _read(path: Path) -> Iterator[Any]:
    """What was written to a file, one after another; the last may be half there."""
    with suppress(OSError, EOFError, pickle.UnpicklingError), path.open("rb") as file:
        while True:
            yield pickle.load(file)
