"""What the diagnostics share: rows that ask for tokens at some positions, and their training.

Source: Arora et al., "Zoology", ICLR 2024, arXiv:2312.04927, and its code.
Departs from them: the checkpoint is selected on validation rows (there on the test rows), and the
learning rate falls by step rather than by epoch.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern, UnsupportedPattern
from tasks.backbones.recall import RecallModel
from tasks.base import AttentionSlots, Task
from tasks.metrics.mean import Mean
from tasks.rules.answers import IGNORED, shares_right


class Batch(NamedTuple):
    """Examples.

    Attributes:
        tokens: int64 (B, N).
        positions: Where answers are read, int64 (B, P).
        answers: int64 (B, P); `IGNORED` where there is none.
        context: What the tokens ask about in the cross patterns, int64 (B, C).
        groups: Which of the task's `Group`s an example belongs to, int64 (B,).
    """

    tokens: Tensor
    positions: Tensor
    answers: Tensor
    context: Tensor | None = None
    groups: Tensor | None = None


class Group(NamedTuple):
    """Test rows that have a score of their own, `accuracy_<name>` at this length."""

    name: str
    seq_len: int


class Answers:
    """Rows in memory, whole batches at once. The arguments are the parts of a `Batch` of them all.

    They are tensors or arrays of integers, kept as wide as they are and read as int64.
    """

    def __init__(
        self,
        tokens: Any,
        positions: Any,
        answers: Any,
        *,
        context: Any = None,
        groups: Any = None,
    ) -> None:
        given = (tokens, positions, answers, context, groups)
        self.rows = Batch._make(None if part is None else torch.as_tensor(part) for part in given)

    def __len__(self) -> int:
        return len(self.rows.tokens)

    def __getitem__(self, rows: Tensor) -> Batch:
        return Batch._make(None if part is None else part[rows].long() for part in self.rows)

    def every(self) -> Batch:
        """All of them."""
        return Batch._make(None if part is None else part.long() for part in self.rows)

    def parts(self, epoch: int) -> Sequence[Tensor]:
        """The row numbers of an epoch, the same in each."""
        return [torch.arange(len(self))]


class Fresh:
    """Rows that are made when a batch of them is read, and are others in each epoch.

    A batch is drawn by the number of its first row, which no other batch has: it does not depend on
    what was read before, nor on the number of processes that read.

    Args:
        num_rows: Of an epoch.
        make: Makes as many rows as it is told, by a seed.
        seed: Of all of them.
    """

    def __init__(
        self, num_rows: int, make: Callable[[Sequence[int], int], Answers], *, seed: Sequence[int]
    ) -> None:
        self.num_rows, self.make, self.seed = num_rows, make, seed

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, rows: Tensor) -> Batch:
        return self.make((*self.seed, int(rows[0])), len(rows)).every()

    def parts(self, epoch: int) -> Sequence[Tensor]:
        """The row numbers of an epoch; see `tasks.data.EpochBatches`."""
        return [torch.arange(self.num_rows) + epoch * self.num_rows]


class Mixture:
    """Rows of several shapes; a batch has rows of one. Row r of K members is row r / K of r mod K.

    Args:
        members: The rows of each shape.
        epochs_each: In a curriculum, for how many epochs each is trained on before the next takes
            its place, the last to the end; None for all in every epoch.
    """

    def __init__(
        self, members: Sequence[Answers | Fresh], *, epochs_each: int | None = None
    ) -> None:
        self.members = list(members)
        self.epochs_each = epochs_each
        sizes = [len(member) for member in self.members]
        if epochs_each is not None and len(set(sizes)) > 1:
            raise ValueError(f"the steps of a curriculum must have as many rows each, got {sizes}")

    def __len__(self) -> int:
        """Of an epoch."""
        sizes = [len(member) for member in self.members]
        return sum(sizes) if self.epochs_each is None else sizes[0]

    def __getitem__(self, rows: Tensor) -> Batch:
        member = self.members[int(rows[0]) % len(self.members)]
        return member[rows // len(self.members)]

    def parts(self, epoch: int) -> Sequence[Tensor]:
        """The row numbers of an epoch, apart by shape; see `tasks.data.EpochBatches`."""
        parts = [
            rows * len(self.members) + number
            for number, member in enumerate(self.members)
            for rows in member.parts(epoch)
        ]
        if self.epochs_each is None:
            return parts
        return [parts[min(epoch // self.epochs_each, len(parts) - 1)]]


class Answering(Task):
    """Cross-entropy at the positions where answers are read.

    Args:
        slots: Give the attentions.
        lr: The greatest learning rate of AdamW.
        weight_decay: Of AdamW.
        cooldown: The last share of the steps, in which the learning rate falls linearly to 0 after
            having been constant; 0 for a constant rate, None for a cosine over all steps.
        min_lr: What the cosine falls to.
        warmup_steps: In which the learning rate rises linearly.
        stop_accuracy: Training ends when the validation accuracy exceeds it; None for never.
        groups: Of the test rows; see `Group`.
        **sizes: Of the `network`.
    """

    patterns = frozenset({Pattern.CAUSAL_SELF})
    directions: ClassVar = {"accuracy": "higher"}
    backbone = "Recall"
    network_of: ClassVar[Any] = RecallModel
    """The class of the network, which is called with tokens, positions and context."""

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        lr: float,
        weight_decay: float = 0.1,
        cooldown: float | None = None,
        min_lr: float = 0.0,
        warmup_steps: int = 0,
        stop_accuracy: float | None = None,
        groups: Sequence[Group] = (),
        **sizes: Any,
    ) -> None:
        super().__init__(slots)
        if cooldown is not None and not 0 <= cooldown <= 1:
            raise ValueError(f"cooldown must be in [0, 1] or null, got {cooldown}")
        if slots.pattern == "all":  # the task has one pattern, and so have its places
            (pattern,) = self.patterns
            slots = self.slots = AttentionSlots(slots.attention, pattern)
        self.network = self.network_of(slots, **sizes)
        self.accuracy = Mean()
        self.groups = list(groups)
        self.by_group = nn.ModuleList(Mean() for _ in self.groups)
        self.lr, self.weight_decay, self.cooldown = lr, weight_decay, cooldown
        self.min_lr, self.warmup_steps = min_lr, warmup_steps
        self.stop_accuracy = stop_accuracy

    @classmethod
    def check_pattern(cls, pattern: Pattern | Literal["all"]) -> None:
        """See `Task.check_pattern`; a model has places of one pattern at a time."""
        super().check_pattern(pattern)
        if pattern == "all" and len(cls.patterns) > 1:
            raise UnsupportedPattern(
                f"task {cls.__name__}",
                cast(Pattern, pattern),
                cls.patterns,
                "its model has places of one pattern at a time",
            )

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the answers."""
        logits = self.network(batch.tokens, batch.positions, batch.context).float()
        answers = batch.answers.flatten()
        loss = F.cross_entropy(logits.flatten(0, 1), answers, ignore_index=IGNORED)
        return loss, (answers != IGNORED).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the examples by their share of right answers."""
        self.count(batch, self.predicted(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same, and apart for each group."""
        right = self.count(batch, self.predicted(batch))
        if batch.groups is None:
            return
        for number, (_, metric) in enumerate(self._by_group()):
            chosen = right[batch.groups == number]
            metric.update(chosen.sum(), len(chosen))

    def measure(self) -> list[dict[str, Any]]:
        """The test accuracy of each group."""
        return [
            {
                "metric": f"accuracy_{group.name}",
                "value": float(metric.compute()),
                "direction": "higher",
                "split": "test",
                "seq_len": group.seq_len,
            }
            for group, metric in self._by_group()
        ]

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        for _, metric in self._by_group():
            metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Stop when the task is solved."""
        if self.stop_accuracy is not None and self.accuracy.compute() > self.stop_accuracy:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        """AdamW, with the learning rate falling to its least at the last step."""
        # Fused: with these few, small parameters the plain loop is a twentieth of a step.
        optimizer = torch.optim.AdamW(
            self.parameter_groups(self.lr), lr=self.lr, weight_decay=self.weight_decay, fused=True
        )
        num_steps = self.trainer.estimated_stepping_batches
        least = self.min_lr / self.lr

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / (self.warmup_steps + 1)
            left = max(0.0, 1 - step / num_steps)
            if self.cooldown is None:
                return least + (1 - least) * (0.5 - 0.5 * math.cos(math.pi * left))
            return min(1.0, left / self.cooldown) if self.cooldown else 1.0

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def predicted(self, batch: Batch) -> Tensor:
        """The most likely token at each position that is read, (B, P)."""
        return self.network(batch.tokens, batch.positions, batch.context).argmax(dim=-1)

    def count(self, batch: Batch, predicted: Tensor) -> Tensor:
        """Count what was predicted, (B, P); the share of right answers of each example (B,)."""
        right = shares_right(predicted, batch.answers)
        self.accuracy.update(right.sum(), len(right))
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return right

    def _by_group(self) -> Iterator[tuple[Group, Mean]]:
        return zip(self.groups, cast(Iterable[Mean], self.by_group), strict=True)
