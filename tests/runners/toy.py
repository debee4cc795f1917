"""A task of a second: predict each token from the one three before it."""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern
from tasks.base import AttentionSlots, Task
from tasks.data import TaskData

LENGTH, CHANNELS = 12, 4


class Pairs:
    def __init__(self, num_rows: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(num_rows, LENGTH, CHANNELS, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.x[rows]


class ToyData(TaskData):
    def setup(self, stage: str | None = None) -> None:
        self.train, self.validation, self.test = Pairs(320, 1), Pairs(40, 2), Pairs(40, 3)

    @property
    def dataset(self) -> str:
        return "toy-synthetic"

    @property
    def facts(self) -> dict[str, Any]:
        return {"channels": CHANNELS}


class Toy(Task):
    patterns = frozenset({Pattern.CAUSAL_SELF})
    directions: ClassVar = {"mse": "lower"}
    backbone = "toy"

    def __init__(
        self,
        slots: AttentionSlots,
        channels: int,
        lr: float,
        mishap: str | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(slots)
        self.embed = nn.Linear(channels, 16)
        self.position = nn.Parameter(0.1 * torch.randn(LENGTH, 16))
        self.attention = slots.build(
            Pattern.CAUSAL_SELF, embed_dim=16, num_heads=2, dropout=dropout, max_len=LENGTH
        )
        self.predict = nn.Linear(16, channels)
        self.lr = lr
        self.mishap = mishap

    def mse(self, x: Tensor) -> Tensor:
        hidden = self.embed(x) + self.position
        predicted = self.predict(hidden + self.attention(hidden))
        return F.mse_loss(predicted[:, 3:], x[:, :-3])

    def loss(self, batch: Tensor) -> tuple[Tensor, int]:
        if self.mishap is not None and self.trainer.training:
            MISHAPS[self.mishap]()
        return self.mse(batch), len(batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("mse", self.mse(batch), batch_size=len(batch))

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def _fail() -> None:
    raise RuntimeError("something broke")


def _run_out_of_memory() -> None:
    torch.empty(2**50)


def _hang() -> None:
    import time

    time.sleep(300)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _on_rank_1(mishap: Callable[[], None]) -> Callable[[], None]:
    return lambda: mishap() if os.environ.get("RANK") == "1" else None


_calls = itertools.count(1)


def _stop_once() -> None:
    """In the tenth step of the first process that comes so far, for each rank."""
    once = Path(os.environ["TOY_STOPPED"] + os.environ.get("RANK", ""))
    if next(_calls) == 10 and not once.exists():
        once.touch()
        raise RuntimeError("stopped")


def _say_so_and_hang() -> None:
    Path(os.environ["TOY_STOPPED"]).touch()
    _hang()


MISHAPS = {
    "fail": _fail,
    "oom": _run_out_of_memory,
    "hang": _hang,
    "say so and hang": _say_so_and_hang,
    "die": _die,
    "fail on rank 1": _on_rank_1(_fail),
    "die on rank 1": _on_rank_1(_die),
    "hang on rank 1": _on_rank_1(_hang),
    "stop once": _stop_once,
}
