"""The checkpoints of a training run: to go on from, and to test.

All are found by their names in the run's folder, which may be moved or mounted elsewhere between a
kill and the next start.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from runners import ranks
from runners.history import History
from tasks.base import Task

LAST = "last.ckpt"


def best_name(step: int | str) -> str:
    """The file of the best weights so far. Named after the step, so that it is never another's."""
    return f"best-{step}.ckpt"


class Checkpoints(Checkpoint):
    """Keeps the state at the end of the last epoch, and the weights of the best validation.

    Ends a run at its last step, and one that had ended when it was killed for good.

    Args:
        folder: Where they are kept.
        history: Knows the validations.
        monitor: The metric that selects; None to select the last step.
        direction: Which way it is better.
    """

    def __init__(
        self, folder: Path, history: History, monitor: str | None, direction: str = ""
    ) -> None:
        self.folder = folder
        self.history = history
        self.monitor = monitor
        self.direction = direction
        self.has_ended = False
        self.max_steps = -1

    @property
    def best_step(self) -> int | None:
        """The step of the best validation; None where nothing selects, or nothing was validated."""
        if self.monitor is None:
            return None
        best = self.history.best(self.monitor, self.direction)
        return None if best is None else int(best["step"])

    def select(self, model: Task, last_step: int) -> int:
        """Give the model the weights to test, which it has if they are the last; their step.

        Raises:
            ValueError: If nothing was validated that could select them.
        """
        if self.monitor is not None and self.best_step is None:
            raise ValueError(f"task.fit.monitor = {self.monitor}, but nothing was validated")
        step = last_step if self.best_step is None else self.best_step
        if step != last_step:
            path = self.folder / best_name(step)
            saved = torch.load(path, map_location=model.device, weights_only=True)
            model.load_state_dict(saved["state_dict"])
        return step

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"has_ended": self.has_ended, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.has_ended = state_dict["has_ended"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the limit of steps over from Lightning.

        With a limit of its own it resumes as if in the middle of an epoch, without the start of the
        epoch that follows, and it ends without a validation.
        """
        self.max_steps, trainer.fit_loop.epoch_loop.max_steps = trainer.max_steps, -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning trains one more epoch after a stop, when a run is resumed."""
        trainer.should_stop = trainer.should_stop or self.has_ended

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop at the last step; Lightning validates where a run stops."""
        if 0 <= self.max_steps <= trainer.global_step:
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = 0
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they are the best."""
        if trainer.state.fn == "fit" and self.best_step == trainer.global_step:
            path = self.folder / best_name(trainer.global_step)
            trainer.save_checkpoint(path, weights_only=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state, and forget the weights that it does not need."""
        self.has_ended = trainer.should_stop
        trainer.save_checkpoint(self.folder / LAST)
        for path in self.folder.glob(best_name("*")) if trainer.is_global_zero else ():
            if self.best_step is None or path.name != best_name(self.best_step):
                path.unlink()


def resumable(folder: Path, model: Task) -> dict[str, Any] | None:
    """The checkpoint to go on from, if there is one.

    One that cannot be used is set aside, with a line that names it: the run starts anew.
    """
    path = folder / LAST
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        _check(saved, model, folder)
    except Exception as error:  # whatever a damaged archive, or a foreign one, raises
        ranks.wait_for_all()  # they find the same
        aside = path.with_suffix(".unusable")
        if ranks.is_first():
            path.rename(aside)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(
            f"attnbench: unusable checkpoint {path} ({reason}), now {aside.name}; starting anew",
            flush=True,
        )
        return None
    written = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    epoch = saved["epoch"] + 1
    print(
        f"attnbench: goes on from epoch {epoch} of {path} (written {written:%Y-%m-%d %H:%M:%S %Z})"
    )
    return saved


def _check(saved: Any, model: Task, folder: Path) -> None:
    """Raise ValueError or KeyError if this is not a checkpoint of this model, whole."""
    if not isinstance(saved, dict):
        raise ValueError(f"a {type(saved).__name__}, not a checkpoint")
    for key in ("epoch", "global_step", "loops", "optimizer_states", "lr_schedulers"):
        saved[key]
    own = {name: value.shape for name, value in model.state_dict().items()}
    if {name: value.shape for name, value in saved["state_dict"].items()} != own:
        raise ValueError("weights of another model")
    states = saved["callbacks"]
    best_step = states["Checkpoints"]["best_step"]
    states["History"]["validations"]
    if best_step is not None and not (folder / best_name(best_step)).exists():
        raise ValueError(f"{best_name(best_step)} is missing beside it")
