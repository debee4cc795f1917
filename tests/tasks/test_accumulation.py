"""One update of several batches is the update of the one batch that they make."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from attentions.base import Pattern
from attentions.registry import factory, load
from tasks.base import AttentionSlots, Task
from tasks.data import TaskData
from tests.tasks.building import quiet_trainer

LENGTHS = torch.tensor([7, 2, 5, 1, 6, 3, 4, 4])
"""Tokens of each row; with batches of one row and updates of three, the last update has two."""


class Tokens:
    """Rows of inputs, a target for each token, and how many of the tokens count."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(8, 7, 4, generator=generator, dtype=torch.float64)
        self.y = torch.randn(8, 7, generator=generator, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.x[rows], self.y[rows], LENGTHS[rows]


class TokensData(TaskData):
    def setup(self, stage: str | None = None) -> None:
        self.train = self.validation = self.test = Tokens()


class Linear(Task):
    """Its loss is a mean over tokens; its attention adds to each batch what that is over."""

    patterns = frozenset({Pattern.CAUSAL_SELF})

    def __init__(self, *, adds: bool) -> None:
        slots = AttentionSlots(factory(load("none")), Pattern.CAUSAL_SELF)
        super().__init__(slots)
        self.attention = slots.build(Pattern.CAUSAL_SELF, embed_dim=4, num_heads=1)
        self.weights = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
        self.adds = adds
        self.seen: list[Tensor] = []

    def loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        x, y, lengths = batch
        counts = torch.arange(7) < lengths[:, None]
        if self.adds:
            self.attention.auxiliary_loss = (x[counts] @ self.weights).tanh().mean()
        squares = (x @ self.weights - y).square()
        return squares[counts].mean(), counts.sum()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch)

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("adds", [False, True])
def test_every_token_of_an_update_counts_alike(clip: float | None, adds: bool) -> None:
    model = Linear(adds=adds)
    data = TokensData(batch_size=1)
    trainer = quiet_trainer(max_epochs=2, accumulate_grad_batches=3, gradient_clip_val=clip)
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == 2 * 3

    whole = Linear(adds=adds)
    optimizer = whole.configure_optimizers()
    for epoch in (model.seen[:8], model.seen[8:]):
        for window in (epoch[:3], epoch[3:6], epoch[6:]):
            optimizer.zero_grad()
            batch = tuple(torch.cat(parts) for parts in zip(*window, strict=True))
            loss = whole.loss(batch)[0] + whole.auxiliary_loss()
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(whole.parameters(), clip)
            optimizer.step()
    # The same sums in another order. Means of means would differ in the first digit.
    torch.testing.assert_close(model.weights, whole.weights, rtol=1e-12, atol=1e-12)


def test_a_single_batch_is_its_mean_to_the_last_bit() -> None:
    model = Linear(adds=False)
    batch = Tokens()[torch.arange(3)]
    quiet_trainer(max_epochs=1).fit(model, datamodule=TokensData(batch_size=4))
    assert torch.equal(model.training_step(batch, 0), model.loss(batch)[0])
