"""What every task shares: slots for attentions, data by index, the training module.

A backbone asks its slots for "an attention for this pattern" at each place and never names a
mechanism. The slots put the mechanism under test where its pattern is asked for, and softmax (or
what the backbone's paper has there) elsewhere.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.distributed
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from attentions.base import Attention, Pattern, UnsupportedPattern
from attentions.registry import AttentionFactory
from attentions.softmax.softmax import SoftmaxAttention


class AttentionSlots:
    """The attentions of one backbone: the mechanism under test in its places, the rest elsewhere.

    Args:
        attention: The mechanism under test.
        pattern: The pattern under test, or "all" to replace every place.
    """

    def __init__(self, attention: AttentionFactory, pattern: Pattern | Literal["all"]) -> None:
        self.attention = attention
        self.pattern: Pattern | Literal["all"] = "all" if pattern == "all" else Pattern(pattern)
        self.under_test: list[Attention] = []

    def build(
        self,
        pattern: Pattern,
        *,
        embed_dim: int,
        num_heads: int,
        layer: int = 0,
        num_layers: int | None = None,
        dropout: float = 0.0,
        max_len: int | None = None,
        grid: tuple[int, int] | None = None,
        rest: AttentionFactory = SoftmaxAttention,
    ) -> Attention:
        """An attention for one place of the backbone.

        Args:
            pattern: What the place needs.
            embed_dim: Its width.
            num_heads: Its number of heads.
            layer: The depth of the place, for mechanisms that differ by layer.
            num_layers: How many such places there are, one after another.
            dropout: Its attention dropout.
            max_len: The greatest length of query or context there.
            grid: (height, width) of image inputs.
            rest: What the backbone's own paper has here, used when the place is not under test.
        """
        tested = self.pattern in ("all", pattern)
        factory = self.attention if tested else rest
        built = factory(
            embed_dim,
            num_heads,
            pattern,
            dropout=dropout,
            max_len=max_len,
            grid=grid,
            layer=layer,
            num_layers=num_layers,
        )
        if tested:
            self.under_test.append(built)
        return built


class Rows(Protocol):
    """A data set that gives a whole batch for a vector of row numbers."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Tensor) -> Any: ...


class EpochBatches(Sampler[Tensor]):
    """Row numbers in batches, in an order fixed by (seed, epoch), dealt out over the ranks.

    A training run that resumes at an epoch sees just the batches that it would have seen.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        epoch: int = 0,
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._dealt(torch.arange(self.num_rows)))

    def __iter__(self) -> Iterator[Tensor]:
        rows = torch.arange(self.num_rows)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            rows = torch.randperm(self.num_rows, generator=generator)
        return iter(self._dealt(rows))

    def _dealt(self, rows: Tensor) -> list[Tensor]:
        batches = list(rows.split(self.batch_size))
        if self.drop_last and len(batches[-1]) < self.batch_size:
            batches.pop()
        if not torch.distributed.is_initialized():
            return batches
        world_size = torch.distributed.get_world_size()
        if self.drop_last:  # training: every rank takes the same number of steps
            batches = batches[: len(batches) // world_size * world_size]
        return batches[torch.distributed.get_rank() :: world_size]


def check_counts(**counts: int | None) -> None:
    """Raise ValueError for a count that is no whole number above 0; None is one not given."""
    for name, value in counts.items():
        if value is not None and not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        if value is not None and value < 1:
            raise ValueError(f"{name} must be positive, got {value}")


class TaskData(LightningDataModule):
    """The data of a task. A subclass sets `train`, `validation` and `test` in `setup`.

    Args:
        batch_size: Training rows per step and rank.
        eval_batch_size: Rows per evaluation batch; None for `batch_size`.
        seed: Orders the training rows, and draws them where they are generated. Evaluation rows
            do not depend on it.
    """

    train: Rows
    validation: Rows
    test: Rows

    def __init__(
        self, *, batch_size: int, eval_batch_size: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        check_counts(batch_size=batch_size, eval_batch_size=eval_batch_size)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.seed = seed
        self.first_epoch = 0  # of a resumed run: its trainer fetches a batch before set_epoch

    @property
    def dataset(self) -> str:
        """Its name in the results; a stand-in's ends in "-synthetic"."""
        raise NotImplementedError

    @property
    def labels(self) -> dict[str, str]:
        """What its settings left to the data, for the record of the run."""
        return {}

    @property
    def facts(self) -> dict[str, Any]:
        """What only the data know and the model is built from (channels, vocabulary size)."""
        return {}

    def train_dataloader(self) -> DataLoader:
        """Whole batches by row numbers, shuffled anew each epoch."""
        return self._loader(self.train, self.batch_size, training=True)

    def val_dataloader(self) -> DataLoader:
        """Every validation row once."""
        return self._loader(self.validation, self.eval_batch_size, training=False)

    def test_dataloader(self) -> DataLoader:
        """Every test row once: the last, shorter batch is kept."""
        return self._loader(self.test, self.eval_batch_size, training=False)

    def _loader(self, rows: Rows, batch_size: int, *, training: bool) -> DataLoader:
        if training and len(rows) < batch_size:
            raise ValueError(
                f"{self.dataset}: {len(rows)} training rows are fewer than batch_size {batch_size}"
            )
        if not len(rows):
            raise ValueError(f"{self.dataset}: there are no rows to evaluate on")
        batches = EpochBatches(
            len(rows),
            batch_size,
            seed=self.seed,
            shuffle=training,
            drop_last=training,
            epoch=self.first_epoch,
        )
        # Each pass over a DataLoader draws a seed; its own generator leaves the model's alone.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(rows, sampler=batches, batch_size=None, generator=generator)  # type: ignore[arg-type]


class Task(LightningModule):
    """A backbone with its loss and metrics.

    A subclass builds its backbone from `slots` in `__init__`, and writes `training_step`,
    `validation_step`, `test_step` and `configure_optimizers`; the training step adds
    `auxiliary_loss()` to its loss, and the optimizer is given `parameter_groups(lr)`. What it logs
    in validation and test under a name of `directions` becomes a measurement.
    """

    patterns: ClassVar[frozenset[Pattern]] = frozenset()
    """The patterns of the places in its backbone."""
    directions: ClassVar[Mapping[str, Literal["lower", "higher"]]] = {}
    """Its metrics, and which way is better."""
    backbone: ClassVar[str] = ""

    def __init__(self, slots: AttentionSlots) -> None:
        super().__init__()
        self.check_pattern(slots.pattern)
        self.slots = slots

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of each hook that it calls, forty times a step; what a module
        # does to tell parameters from other attributes would be a tenth of a small step.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """All parameters for an optimizer of the learning rate `lr`.

        What a mechanism names in `undecayed` is in groups after the first, without weight decay.
        """
        rates: dict[nn.Parameter, float] = {}
        for module in self.modules():
            for name, greatest in getattr(module, "undecayed", {}).items():
                part = getattr(module, name)
                owned = part.parameters() if isinstance(part, nn.Module) else [part]
                rates |= dict.fromkeys(owned, min(lr, greatest))
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters() if p not in rates]}
        ]
        for rate in sorted(set(rates.values())):
            params = [p for p in rates if rates[p] == rate]
            groups.append({"params": params, "lr": rate, "weight_decay": 0.0})
        return groups

    def auxiliary_loss(self) -> Tensor | float:
        """What the attentions under test add to the loss of a training step, after their pass."""
        losses = (attention.auxiliary_loss for attention in self.slots.under_test)
        return sum(loss for loss in losses if loss is not None)

    @classmethod
    def check_pattern(cls, pattern: Pattern | Literal["all"]) -> None:
        """Raise UnsupportedPattern if the backbone has no place of this pattern."""
        if pattern != "all" and pattern not in cls.patterns:
            raise UnsupportedPattern(f"task {cls.__name__}", pattern, cls.patterns, "no such place")

    def measure(self) -> list[dict[str, Any]]:
        """Measurements beyond the logged metrics, taken after the test.

        Each has the fields of `runners.records.Measurement`.
        """
        return []
