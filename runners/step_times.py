"""What a training step costs, in turns with the same model that has softmax in the places."""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.optim import Optimizer

from attentions.registry import factory, load
from runners.measure import Call, is_out_of_memory, ratio_in_turns, spread, time_in_turns
from runners.run import Run
from tasks.base import AttentionSlots, Task
from tasks.data import TaskData

BASELINE = "softmax"
MIN_RUN_TIME_S = 0.5  # for both together


def add_step_times(
    run: Run, trainer: Trainer, model: Task, data: TaskData, build: Callable[..., Task]
) -> None:
    """Time training steps on one batch: forward, backward and update, without reading the data.

    The steps train the model further: nothing else can be measured of it afterwards.

    Args:
        run: Gets the rows `step_time`, of both, and `step_time_ratio`.
        trainer: That trained the model; its precision and device are used.
        model: With the mechanism under test.
        data: Of which the first training batch is taken.
        build: Makes the model that softmax is put into, of slots and the facts of the data.
    """
    if trainer.world_size > 1:  # a rank alone would wait for the others
        return
    samples: list[list[float]] = [[], []]
    comment = f"to {BASELINE}, measured in turns"
    try:
        slots = AttentionSlots(factory(load(BASELINE)), model.slots.pattern)
        twin = build(slots=slots, **data.facts)
        batch = next(iter(data.train_dataloader()))
        calls = [Call(_step(trainer, one, batch)) for one in (model, twin)]
        for call in calls:  # the first is slower, and makes the state of the optimizer
            call.run()
        samples = time_in_turns(calls, min_run_time_s=MIN_RUN_TIME_S)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        comment = "oom: no room for the model with softmax beside this one"
    fields: dict[str, Any] = {"direction": "lower", "split": "train"}
    own, baseline = samples
    for who, times_ms in ((None, own), (BASELINE, baseline)):
        run.add(
            "step_time",
            statistics.median(times_ms) if times_ms else None,
            unit="ms",
            attention=who,
            comment="" if times_ms else comment,
            samples=spread(times_ms) if times_ms else (),
            **fields,
        )
    ratio = ratio_in_turns(own, baseline) if own else None
    run.add("step_time_ratio", ratio, unit="ratio", comment=comment, **fields)


def _step(trainer: Trainer, model: Task, batch: Any) -> Callable[[], None]:
    """One training step, as the trainer makes it."""
    device, plugin = trainer.strategy.root_device, trainer.precision_plugin
    model.trainer = trainer
    plugin.convert_module(model.to(device).train())
    batch = model.transfer_batch_to_device(plugin.convert_input(batch), device, 0)
    optimizer = _optimizer(model)
    # Of its own, so that the loss scale does not depend on the turns.
    has_scaler = getattr(plugin, "scaler", None) is not None
    scaler = torch.amp.GradScaler(device.type, enabled=has_scaler)

    def step() -> None:
        with plugin.train_step_context():
            loss = model.training_step(batch, 0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def _optimizer(model: Task) -> Optimizer:
    """The one that the task configures, in any of the forms that Lightning takes."""
    found: Any = model.configure_optimizers()
    found = found["optimizer"] if isinstance(found, dict) else found
    while isinstance(found, list | tuple):
        found = found[0]
    return found
