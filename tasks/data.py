"""The data of a task: rows read as whole batches by their numbers, in a resumable order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
import torch.distributed
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

VALIDATION_SEED, TEST_SEED = 0x1C1F_6E0B_D3A5_7241, 0x5B8E_27F4_A1C9_3D67
"""Of generated evaluation rows, the same for every seed of a run; out of reach of those.

Neither half of their bits is a number that a run counts with: torch takes the lower 32 of a seed on
the CPU, and numpy takes a long number for several short ones, such as a seed and an epoch.
"""


class Rows(Protocol):
    """A data set that gives a whole batch for a vector of row numbers."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Tensor) -> Any: ...


class EpochBatches(Sampler[Tensor]):
    """Row numbers in batches, in an order fixed by (seed, epoch), dealt out over the ranks.

    A training run that resumes at an epoch sees just the batches that it would have seen.

    Args:
        num_rows: How many rows there are.
        batch_size: Of a batch.
        seed: Of the order.
        shuffle: Whether the rows come in another order each epoch.
        drop_last: Whether a last, shorter batch is left out.
        epoch: The one that comes first.
        in_order_first: Whether epoch 0 takes the rows as they stand. Rows that are drawn one
            independently of the other are in a random order already, and those that are made as
            they are first read can so be made one after another.
        parts: The rows of an epoch, in parts that share no batch (as rows of another length
            cannot); None for all rows in one.
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
        in_order_first: bool = False,
        parts: Callable[[int], Sequence[Tensor]] | None = None,
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = epoch
        self.in_order_first = in_order_first
        self.parts = parts

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._dealt([b for part in self._parts() for b in self._cut(part)]))

    def __iter__(self) -> Iterator[Tensor]:
        parts = self._parts()
        if not self.shuffle or (self.in_order_first and self.epoch == 0):
            return iter(self._dealt([batch for part in parts for batch in self._cut(part)]))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        parts = [part[torch.randperm(len(part), generator=generator)] for part in parts]
        batches = [batch for part in parts for batch in self._cut(part)]
        if len(parts) > 1:
            order = torch.randperm(len(batches), generator=generator)
            batches = [batches[i] for i in order.tolist()]
        return iter(self._dealt(batches))

    def _parts(self) -> Sequence[Tensor]:
        return [torch.arange(self.num_rows)] if self.parts is None else self.parts(self.epoch)

    def _cut(self, rows: Tensor) -> list[Tensor]:
        batch_size = self.batch_size
        if not self.drop_last:  # evaluation: a rank without a batch would wait for the others
            batch_size = min(batch_size, max(self.num_rows // _world_size(), 1))
        batches = list(rows.split(batch_size))
        if self.drop_last and len(batches[-1]) < self.batch_size:
            batches.pop()
        return batches

    def _dealt(self, batches: list[Tensor]) -> list[Tensor]:
        world_size = _world_size()
        if world_size == 1:
            return batches
        if self.drop_last:  # training: every rank takes the same number of steps
            batches = batches[: len(batches) // world_size * world_size]
        if len(batches) < world_size:
            what = "training batches" if self.drop_last else "rows to evaluate on"
            raise ValueError(f"{len(batches)} {what} are fewer than the {world_size} ranks")
        return batches[torch.distributed.get_rank() :: world_size]


def _world_size() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


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
        self.num_workers = 0  # processes that read ahead; no row depends on it

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

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """What rules that understand nothing reach on the test rows: {rule: {metric: value}}.

        Fitted on the training rows alone; see `tasks.rules`. Called after `setup` of all stages.
        """
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
            in_order_first=getattr(rows, "in_order_first", False),
            parts=getattr(rows, "parts", None),
        )
        # Each pass over a DataLoader draws a seed; its own generator leaves the model's alone.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            rows,  # type: ignore[arg-type]
            sampler=batches,
            batch_size=None,
            generator=generator,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


class GeneratedData(TaskData):
    """Rows of a task that is generated, and is so by nature: it has no other source.

    Args:
        source: "generated".
        **loading: See `TaskData`.

    Raises:
        ValueError: If it is another.
    """

    title: ClassVar[str]
    """In messages."""

    def __init__(self, *, source: str = "generated", **loading: Any) -> None:
        super().__init__(**loading)
        if source != "generated":
            raise ValueError(f"{self.title}: source must be 'generated', got {source!r}")
