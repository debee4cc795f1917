"""`attnbench train`: one task, one mechanism, one pattern.

The loop, the checkpoints and the devices are Lightning's. A run that was killed goes on from the
checkpoint of its last finished epoch, and ends with the same numbers as one that was not.
"""

import logging
import shutil
import statistics
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import get_class, instantiate
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from attentions.base import Attention, Pattern, UnsupportedPattern
from attentions.registry import AttentionFactory, factory, mechanism
from attentions.softmax.softmax import SoftmaxAttention
from runners import devices, launch, ranks
from runners.analysis.analyses import add_analyses, check, undisturbed
from runners.checkpoints import LAST, Checkpoints, resumable
from runners.history import Divergence, History, check_finite
from runners.run import Diverged, Run, UnsupportedStage
from runners.state_size import add_state_elements
from runners.step_times import add_step_times
from tasks.base import AttentionSlots, Task
from tasks.data import TaskData


def measure(run: Run) -> None:
    """Train, select a checkpoint on the validation rows, and test: here, or on ranks of its own.

    Each part is recorded before the next begins, which may fail.
    """
    config = run.config
    check(config.run.get("analyses") or ())
    attention = factory(config.attention)
    _check_patterns(config)
    device = devices.find(config.device)
    size = launch.num_ranks(config)
    if size > 1 and not ranks.joined():
        return launch.start("train", run, size)
    data: TaskData = instantiate(config.task.data)
    data.num_workers = config.run.data_workers
    with ranks.first_rank_first():
        data.prepare_data()
        data.setup("fit")
    torch.manual_seed(config.seed)
    build = instantiate(config.task.model, _partial_=True)
    model: Task = build(slots=AttentionSlots(attention, config.pattern), **data.facts)
    run.labels |= {"dataset": data.dataset, "backbone": model.backbone, **data.labels}

    history = History(config.seed, frozenset(model.directions))
    trainer, checkpoints = _trainer(run, device, model, history)
    run.labels |= {"device": device.type, "dtype": str(trainer.precision)}
    run.labels |= {"world_size": trainer.world_size}
    _add_parameters(run, model)
    add_state_elements(run, model, data.facts)
    try:
        try:
            _fit(trainer, model, data, checkpoints)
        finally:
            _add_training(run, model, history, trainer)
        step = checkpoints.select(model, trainer.global_step)
        _test(run, trainer, model, data, history, step)
    except (Diverged, UnsupportedStage):  # it would end the same way again
        _forget(run)
        raise
    if ranks.is_first():
        _write_samples(run, trainer, model)
        add_analyses(run, model, data)
    add_step_times(run, trainer, model, data, build)
    ranks.wait_for_all()  # who may still read the checkpoints
    _forget(run)


def _forget(run: Run) -> None:
    """Remove the checkpoints, which nothing will need again."""
    if ranks.is_first() and not run.config.run.keep_checkpoints:
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


def _trainer(
    run: Run, device: torch.device, model: Task, history: History
) -> tuple[Trainer, Checkpoints]:
    config, fit = run.config, run.config.task.fit
    direction = model.directions[fit.monitor] if fit.monitor else ""
    checkpoints = Checkpoints(run.folder, history, fit.monitor, direction)
    callbacks: list[Callback] = [history, Divergence(), checkpoints]
    if fit.get("patience") is not None:
        # Where training ends within an epoch, the epoch's end has no new value to judge.
        callbacks.append(
            EarlyStopping(
                fit.monitor,
                mode="max" if direction == "higher" else "min",
                patience=fit.patience,
                check_on_train_epoch_end=False,
                strict=False,  # a stage of training without scores is not judged
            )
        )
    settings = launch.trainer_settings(config)
    if not ranks.joined():
        # Lightning would take a batch script of SLURM for one of its ranks.
        settings["plugins"] = LightningEnvironment()
    else:
        if not isinstance(settings.get("devices"), list):  # `auto` is what was started
            settings["devices"] = launch.num_ranks(config) // settings.get("num_nodes", 1)
        if settings.get("strategy") in (None, "auto"):
            # A mechanism may have weights that a pattern leaves unused.
            settings["strategy"] = "ddp_find_unused_parameters_true"
    trainer = Trainer(
        accelerator=device.type,
        callbacks=callbacks,
        use_distributed_sampler=False,  # EpochBatches deals the rows out itself
        **quiet_lightning(),
        **settings,
    )
    return trainer, checkpoints


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


def _fit(trainer: Trainer, model: Task, data: TaskData, checkpoints: Checkpoints) -> None:
    """Train, or go on, and validate at the end, whatever ended it."""
    history = checkpoints.history
    saved = resumable(checkpoints.folder, model)
    if saved is not None:
        data.first_epoch = saved["epoch"] + 1
    trainer.fit(model, datamodule=data, ckpt_path=checkpoints.folder / LAST if saved else None)
    if not history.validations or history.validations[-1]["step"] != trainer.global_step:
        history.reseed(trainer.current_epoch)  # a resumed run comes here without training
        trainer.validate(model, data, verbose=False)


def _add_training(run: Run, model: Task, history: History, trainer: Trainer) -> None:
    """The learning curve and what training cost."""
    for row in history.validations:
        for metric in row.keys() - {"step"}:
            run.add(
                metric,
                row[metric],
                direction=model.directions[metric],
                split="validation",
                step=int(row["step"]),
            )
    run.add("steps", trainer.global_step, split="train")
    if history.step_times_s:
        median = 1e3 * statistics.median(history.step_times_s)
        run.add("loop_step_time", median, unit="ms", direction="lower", split="train")
    if history.peak_bytes:
        peak = history.peak_bytes / 2**20
        run.add("peak_memory", peak, unit="MiB", direction="lower", split="train")


def _test(
    run: Run, trainer: Trainer, model: Task, data: TaskData, history: History, step: int
) -> None:
    """What needs no writing first: a mechanism may lack a decoding step."""
    monitor = run.config.task.fit.monitor
    source = f"checkpoint of the best validation {monitor}" if monitor else "the last checkpoint"
    comment = f"{source}, step {step}"
    data.setup("test")
    history.reseed(trainer.current_epoch)
    tested = cast(dict[str, float], trainer.test(model, data, verbose=False)[0])
    scores = {metric: float(tested[metric]) for metric in model.directions if metric in tested}
    check_finite(scores, f"test of step {step}")
    for metric, value in scores.items():
        direction = model.directions[metric]
        run.add(metric, value, direction=direction, split="test", comment=comment)
    run.add("tested_step", step, split="test")
    if is_overridden("predict_step", model, LightningModule):
        try:
            trainer.predict(model, data.test_dataloader(), return_predictions=False)
        except NotImplementedError as error:
            raise UnsupportedStage(f"nothing can be written token by token: {error}") from error
    extras = model.measure()
    for extra in extras:
        check_finite({extra["metric"]: extra["value"]}, f"test of step {step}")
        run.add(**{"comment": comment, **extra})
    directions = {**model.directions, **{e["metric"]: e.get("direction", "") for e in extras}}
    # Of groups of rows; a score of all of them has none.
    lengths = {e["metric"]: e.get("seq_len") for e in extras if e["metric"] not in scores}
    for rule, values in data.trivial_scores().items():
        for metric, value in values.items():
            fields: dict[str, Any] = {"split": "test", "seq_len": lengths.get(metric)}
            run.add(metric, value, direction=directions[metric], rule=rule, **fields)


def _write_samples(run: Run, trainer: Trainer, model: Task) -> None:
    """Into `<results>/<sweep>/samples/<run_id>/`, for tasks that have something to show."""
    if trainer.is_global_zero and is_overridden("write_samples", model, Task):
        folder = Path(run.config.run.results) / run.config.run.sweep / "samples" / run.run_id
        folder.mkdir(parents=True, exist_ok=True)
        with undisturbed(model):
            model.write_samples(folder)


def _add_parameters(run: Run, model: Task) -> None:
    under_test = model.slots.under_test
    total = _num_parameters(model)
    tested = sum(map(_num_parameters, under_test))
    softmax = sum(_num_parameters(_like(a, SoftmaxAttention)) for a in under_test)
    run.add("parameters", total, direction="lower")
    # CAB admits a mechanism that adds at most 10 % to its backbone.
    run.add("parameter_overhead", (tested - softmax) / (total - tested + softmax), unit="ratio")


def _like(attention: Attention, cls: AttentionFactory) -> Attention:
    with torch.device("meta"):
        return cls(attention.embed_dim, attention.num_heads, attention.pattern)


def _num_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
