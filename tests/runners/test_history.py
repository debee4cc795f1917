"""What is noted while a run trains: where it diverged, its peak memory, the time of a step."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from runners.history import Divergence, History
from runners.run import Diverged


class Training:
    """Steps of a module without a trainer: each has a loss, and may spoil the weights."""

    def __init__(self, batches_per_update: int = 1) -> None:
        self.trainer: Any = SimpleNamespace(global_step=0)
        self.module: Any = nn.Linear(3, 2)
        self.module.device = torch.device("cpu")
        self.divergence = Divergence()
        self.divergence.on_train_start(self.trainer, self.module)
        self.batches_per_update = batches_per_update
        self.num_batches = 0

    def step(self, loss: float = 1.0, weight: float | None = None) -> None:
        self.num_batches += 1
        if weight is not None:
            with torch.no_grad():
                self.module.weight[1, 2] = weight
        self.trainer.global_step = self.num_batches // self.batches_per_update
        outputs = {"loss": torch.tensor(loss)}
        self.divergence.on_train_batch_end(self.trainer, self.module, outputs, None, 0)

    def end(self) -> None:
        self.divergence.on_validation_start(self.trainer, self.module)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_is_named_however_late_one_looks(bad: float) -> None:
    for what, spoil in (("loss", {"loss": bad}), ("weights", {"weight": bad})):
        training = Training()
        for step in range(1, 30):
            training.step(**(spoil if step == 17 else {}))
        with pytest.raises(Diverged, match=f"the {what} became NaN or infinite in step 17$"):
            training.end()


def test_the_earlier_of_loss_and_weights_is_named() -> None:
    training = Training()
    training.step(weight=math.nan)
    training.step(loss=math.nan)
    with pytest.raises(Diverged, match=r"the weights became NaN or infinite in step 1$"):
        training.end()


def test_steps_are_updates_and_a_bad_batch_belongs_to_the_one_it_is_for() -> None:
    training = Training(batches_per_update=4)
    for batch in range(1, 10):
        training.step(loss=math.nan if batch == 6 else 1.0)
    with pytest.raises(Diverged, match=r"the loss became NaN or infinite in step 2$"):
        training.end()


def test_great_numbers_are_no_divergence() -> None:
    training = Training()
    training.step(loss=1e38, weight=3e38)
    training.end()


def test_a_long_epoch_is_not_trained_to_its_end() -> None:
    training = Training()
    training.step(loss=math.nan)
    with pytest.raises(Diverged, match=r"in step 1$"):
        any(training.step() for _ in range(200))
    assert training.num_batches < 200


def test_the_peak_memory_is_that_of_the_training_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA the allocator remembers a peak until it is reset, from whatever ran before."""
    peak = 9000
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)

    def reset(_: Any) -> None:
        nonlocal peak
        peak = 100  # what is alive

    def use(amount: int) -> None:
        nonlocal peak
        peak = max(peak, amount)

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: peak)
    history = History(0, frozenset())
    trainer: Any = SimpleNamespace(
        current_epoch=0, global_step=0, callback_metrics={}, state=SimpleNamespace(fn="fit")
    )
    module: Any = SimpleNamespace(device=torch.device("cuda"))
    for training, validation in ((400, 7000), (500, 8000)):
        history.on_train_epoch_start(trainer, module)
        trainer.global_step += 1
        use(training)
        history.on_validation_start(trainer, module)
        use(validation)
        history.on_validation_end(trainer, module)
        trainer.global_step += 1
        use(training - 50)
        history.on_train_epoch_end(trainer, module)
    assert history.peak_bytes == 500
    resumed = History(0, frozenset())
    resumed.load_state_dict(history.state_dict())
    assert resumed.peak_bytes == 500
    assert len(resumed.step_times_s) == 4  # validation is no part of a step


def test_ranks_draw_different_numbers_and_one_rank_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dropout would else drop the same on all ranks."""

    def drawn(rank: int, epoch: int) -> float:
        monkeypatch.setattr("runners.ranks.rank", lambda: rank)
        History(3, frozenset()).reseed(epoch)
        return float(torch.rand(()))

    numbers = [drawn(rank, epoch) for rank in range(4) for epoch in range(3)]
    assert len(set(numbers)) == len(numbers)
    assert drawn(2, 1) == numbers[7]
