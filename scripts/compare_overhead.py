"""What a step of `attnbench train` costs beside a hand-written loop over the same model and data.

Run: python scripts/compare_overhead.py
Prints milliseconds of processor time per step of both, on one thread and in turns, for a small and
a larger model. Processor time, because what else a machine does then hardly matters.
"""

import statistics
import tempfile
import time
import warnings
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from attentions.registry import CONF, factory
from runners.train import History, quiet_lightning
from tasks.base import AttentionSlots, Task
from tasks.data import TaskData

MODELS = {
    "small": ["task.data.batch_size=16"],
    "larger": ["task.data.batch_size=256", "task.model.embed_dim=128"],
}
ROUNDS, STEPS = 5, 100


def build(overrides: list[str]) -> tuple[Task, TaskData]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["task=mqar/tiny", *overrides])
    data = instantiate(config.task.data)
    data.prepare_data()
    data.setup("fit")
    slots = AttentionSlots(factory(config.attention), config.pattern)
    return instantiate(config.task.model, _partial_=True)(slots=slots, **data.facts), data


def by_hand(task: Task, data: TaskData) -> float:
    task.trainer = Trainer(max_steps=STEPS, accelerator="cpu", **quiet_lightning())
    (optimizer,), (scheduling,) = cast(Any, task.configure_optimizers())
    scheduler = scheduling["scheduler"]
    task.train()
    start = time.process_time()
    for step, batch in enumerate(data.train_dataloader()):
        if step == STEPS:
            break
        loss = cast(Tensor, task.training_step(batch, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return 1e3 * (time.process_time() - start) / STEPS


class Stopwatch(Callback):
    """The processor time of the first epoch's training."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self.start = time.process_time()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self.elapsed = time.process_time() - self.start


def by_runner(task: Task, data: TaskData) -> float:
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=STEPS,
            limit_val_batches=1,
            check_val_every_n_epoch=None,
            val_check_interval=STEPS,
            callbacks=[stopwatch, History(0, frozenset())],
            default_root_dir=folder,
            accelerator="cpu",
            **quiet_lightning(),
        )
        trainer.fit(task, datamodule=data)
    return 1e3 * stopwatch.elapsed / STEPS


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(
        f"{'model':8} {'by hand':>9} {'attnbench':>10} {'difference':>11} {'ratio':>6}   ms a step"
    )
    for name, overrides in MODELS.items():
        times: dict[str, list[float]] = {"hand": [], "runner": []}
        for _ in range(ROUNDS):
            task, data = build(overrides)
            times["hand"].append(by_hand(task, data))
            task, data = build(overrides)
            times["runner"].append(by_runner(task, data))
        hand, runner = (statistics.median(times[key]) for key in ("hand", "runner"))
        print(f"{name:8} {hand:9.2f} {runner:10.2f} {runner - hand:11.2f} {runner / hand:6.2f}")


if __name__ == "__main__":
    main()
