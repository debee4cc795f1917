"""`attnbench train`: one task, one mechanism, one pattern.

The loop, the checkpoints and the devices are Lightning's. A run that was killed goes on from the
checkpoint of its last finished epoch, and ends with the same numbers as one that was not.
"""

import logging
import shutil
import statistics
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import get_class, instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.profilers import Profiler
from omegaconf import DictConfig

from attentions.base import Attention, Pattern, UnsupportedPattern
from attentions.registry import AttentionFactory, factory, mechanism
from attentions.softmax.softmax import SoftmaxAttention
from runners.run import Run
from tasks.base import AttentionSlots, Task, TaskData


def measure(run: Run) -> None:
    """Train, select a checkpoint on the validation rows, and test."""
    config = run.config
    attention = factory(config.attention)
    _check_patterns(config)
    data: TaskData = instantiate(config.task.data)
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(config.seed)
    slots = AttentionSlots(attention, config.pattern)
    model: Task = instantiate(config.task.model, _partial_=True)(slots=slots, **data.facts)
    run.labels |= {"dataset": data.dataset, "backbone": model.backbone}

    history = History(config.seed, frozenset(model.directions))
    trainer, best = _trainer(run, model, history)
    run.labels |= {
        "device": trainer.strategy.root_device.type,
        "dtype": str(trainer.precision),
        "world_size": trainer.world_size,
    }
    _fit(trainer, model, data, run.folder)
    if best:
        saved = torch.load(best.best_model_path, map_location=model.device, weights_only=True)
        model.load_state_dict(saved["state_dict"])
    data.setup("test")
    tested = cast(dict[str, float], trainer.test(model, data, verbose=False)[0])
    _add_quality(run, model, tested, history, config.task.fit.monitor)
    _add_costs(run, model, slots, history, trainer)
    for extra in model.measure():
        run.add(**extra)
    if not config.run.keep_checkpoints:
        shutil.rmtree(run.folder, ignore_errors=True)


def _check_patterns(config: DictConfig) -> None:
    """Refuse a pattern before any data are read."""
    task = cast(type[Task], get_class(config.task.model._target_))
    cls = mechanism(config.attention._target_)
    pattern = config.pattern if config.pattern == "all" else Pattern(config.pattern)
    task.check_pattern(pattern)
    wanted = task.patterns if pattern == "all" else {pattern}
    for pattern in wanted - cls.patterns:
        raise UnsupportedPattern(cls.__name__, pattern, cls.patterns, cls.refuses.get(pattern, ""))


def _trainer(run: Run, model: Task, history: "History") -> tuple[Trainer, ModelCheckpoint | None]:
    """The trainer, and what keeps the checkpoint of the best epoch where one is to be selected."""
    config, fit = run.config, run.config.task.fit
    keep = partial(ModelCheckpoint, run.folder, enable_version_counter=False)
    callbacks: list[Callback] = [history]
    best = None
    if fit.monitor:
        mode = "max" if model.directions[fit.monitor] == "higher" else "min"
        best = keep("best", monitor=fit.monitor, mode=mode)
        callbacks.append(best)
        if fit.get("patience") is not None:
            callbacks.append(EarlyStopping(fit.monitor, mode=mode, patience=fit.patience))
    # A callback of its own: `save_last` passes over the epochs that are not the best so far. Behind
    # the other, whose state it keeps.
    callbacks.append(keep("last"))
    given = {key: value for key, value in config.trainer.items() if value is not None}
    settings = {**config.task.trainer, **given}
    trainer = Trainer(
        accelerator=config.device,
        callbacks=callbacks,
        use_distributed_sampler=False,  # EpochBatches deals the rows out itself
        **quiet_lightning(),
        **settings,
    )
    return trainer, best


def quiet_lightning() -> dict[str, Any]:
    """Silence what Lightning says of itself, and name the parts of a Trainer that only talk."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    return {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "profiler": Unprofiled(),
    }


class Unprofiled(Profiler):
    """Lightning enters 37 profiling contexts a step; the one it uses by default is slow."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Measure nothing."""
        return nullcontext()

    def start(self, action_name: str) -> None:
        """Measure nothing."""

    def stop(self, action_name: str) -> None:
        """Measure nothing."""


def _fit(trainer: Trainer, model: LightningModule, data: TaskData, folder: Path) -> None:
    last = folder / "last.ckpt"
    if last.exists():
        try:
            saved = torch.load(last, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged archive raises
            print(f"attnbench: unreadable checkpoint {last} ({error}); starting over", flush=True)
            shutil.rmtree(folder)
        else:
            data.first_epoch = saved["epoch"] + 1
    trainer.fit(model, datamodule=data, ckpt_path=last if last.exists() else None)


class History(Callback):
    """Seeds each epoch, times it, and keeps the validation metrics; all survive a resume."""

    def __init__(self, seed: int, metrics: frozenset[str]) -> None:
        self.seed = seed
        self.metrics = metrics
        self.step_times_s: list[float] = []
        self.validations: list[dict[str, float]] = []
        self._start = (0, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"step_times_s": self.step_times_s, "validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.step_times_s = state_dict["step_times_s"]
        self.validations = state_dict["validations"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Dropout and the like then depend on (seed, epoch) alone, not on earlier epochs."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)
        self._start = (trainer.global_step, _now(pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation follows the last step of the epoch: the training part ends here."""
        step, start = self._start
        if trainer.state.fn == "fit" and trainer.global_step > step:
            elapsed = _now(pl_module) - start
            self.step_times_s.append(elapsed / (trainer.global_step - step))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metrics of this epoch."""
        kept = {k: float(v) for k, v in trainer.callback_metrics.items() if k in self.metrics}
        self.validations.append({"step": trainer.global_step} | kept)


def _now(module: LightningModule) -> float:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()


def _add_quality(
    run: Run,
    model: Task,
    tested: dict[str, float],
    history: History,
    monitor: str | None,
) -> None:
    for row in history.validations:
        for metric in row.keys() - {"step"}:
            run.add(
                metric,
                row[metric],
                direction=model.directions[metric],
                split="validation",
                step=int(row["step"]),
            )
    for metric, value in tested.items():
        if metric in model.directions:
            comment = f"checkpoint of the best validation {monitor}" if monitor else ""
            run.add(
                metric,
                float(value),
                direction=model.directions[metric],
                split="test",
                comment=comment,
            )


def _add_costs(
    run: Run, model: Task, slots: AttentionSlots, history: History, trainer: Trainer
) -> None:
    run.add("steps", trainer.global_step, split="train")
    if history.step_times_s:
        median = 1e3 * statistics.median(history.step_times_s)
        run.add("step_time", median, unit="ms", direction="lower", split="train")
    if model.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(model.device) / 2**20
        run.add("peak_memory", peak, unit="MiB", direction="lower", split="train")
    total = _num_parameters(model)
    tested = sum(map(_num_parameters, slots.under_test))
    softmax = sum(_num_parameters(_like(a, SoftmaxAttention)) for a in slots.under_test)
    run.add("parameters", total, direction="lower")
    # CAB admits a mechanism that adds at most 10 % to its backbone.
    run.add("parameter_overhead", (tested - softmax) / (total - tested + softmax), unit="ratio")


def _like(attention: Attention, cls: AttentionFactory) -> Attention:
    with torch.device("meta"):
        return cls(attention.embed_dim, attention.num_heads, attention.pattern)


def _num_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
