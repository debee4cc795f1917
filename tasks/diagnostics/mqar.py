"""Multi-query associative recall: store key-value pairs, then answer for each key.

Source: Arora et al., "Zoology", ICLR 2024, arXiv:2312.04927, and its code.
Departs from them: the checkpoint is selected on validation rows (there on the test rows), the
learning rate falls by step rather than by epoch; see `tasks.backbones.recall` for the model.
In: tokens (B, N). Out: the value of each of P pairs, read at the second sight of its key. Scores:
argmax over the whole vocabulary, mean over the keys of an example, then over the examples.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern
from tasks.backbones.recall import RecallDecoder
from tasks.base import AttentionSlots, Task
from tasks.data import TaskData, check_counts
from tasks.metrics.mean import Mean

IGNORED = -100
"""In place of an answer, where an example has fewer pairs than another."""
VALIDATION_SEED, TEST_SEED = 2**40, 2**40 + 1  # out of reach of the training rows' seeds


class Batch(NamedTuple):
    """Examples.

    Attributes:
        tokens: int64 (B, N).
        positions: Where the queried keys stand, int64 (B, P).
        answers: Their values, int64 (B, P); `IGNORED` where there is no query.
    """

    tokens: Tensor
    positions: Tensor
    answers: Tensor


class Examples:
    """Examples of one length, whole batches at once.

    A row is k1 v1 ... kP vP and then (N - 2 P) / 2 slots of two tokens; the keys come again at the
    heads of P slots. Keys are of 1 .. V/2 - 1, values of V/2 .. V - 1, both without repetition.

    Args:
        num_rows: How many.
        seq_len: N, even.
        num_pairs: P; of several, each has an equal share of the rows.
        vocab_size: V, even.
        power: a of the law of the slots, p(i) ~ i^(a - 1) for i = 1, 2, ...; 1 is uniform.
        filler: Whether the blanks (token 0) become random tokens of the whole vocabulary.
        seed: Of the generator.

    Raises:
        ValueError: If the pairs do not fit into the length or the vocabulary.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        seq_len: int,
        num_pairs: Sequence[int],
        vocab_size: int,
        power: float,
        filler: bool,
        seed: int,
    ) -> None:
        _check_sizes(seq_len, num_pairs, vocab_size, power)
        generator = torch.Generator().manual_seed(seed)
        half, most = vocab_size // 2, max(num_pairs)
        keys = _draw(torch.ones(half - 1), num_rows, most, generator) + 1
        values = _draw(torch.ones(half), num_rows, most, generator) + half
        # 32 bits: the paper's largest setting has 10^5 rows of 512 tokens.
        self.tokens = torch.zeros(num_rows, seq_len, dtype=torch.int32)
        self.positions = torch.zeros(num_rows, most, dtype=torch.int32)
        self.answers = torch.full((num_rows, most), IGNORED, dtype=torch.int32)
        for i, pairs in enumerate(num_pairs):
            rows = torch.arange(i, num_rows, len(num_pairs))
            key, value = keys[rows, :pairs], values[rows, :pairs]
            slots = torch.arange(1.0, (seq_len - 2 * pairs) // 2 + 1) ** (power - 1)
            positions = 2 * pairs + 2 * _draw(slots, len(rows), pairs, generator)
            self.tokens[rows, : 2 * pairs] = torch.stack([key, value], dim=-1).flatten(1)
            self.tokens[rows[:, None], positions.long()] = key
            self.positions[rows, :pairs] = positions
            self.answers[rows, :pairs] = value
        if filler:
            noise = torch.randint(
                vocab_size, self.tokens.shape, dtype=torch.int32, generator=generator
            )
            self.tokens = torch.where(self.tokens == 0, noise, self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor) -> Batch:
        parts = (self.tokens, self.positions, self.answers)
        return Batch(*(part[rows].long() for part in parts))


def _check_sizes(seq_len: int, num_pairs: Sequence[int], vocab_size: int, power: float) -> None:
    if seq_len % 2 or vocab_size % 2:
        raise ValueError(f"mqar: seq_len and vocab_size must be even, got {seq_len}, {vocab_size}")
    most = min(seq_len // 4, vocab_size // 2 - 1)
    if not num_pairs or min(num_pairs) < 1 or max(num_pairs) > most:
        raise ValueError(
            f"mqar: num_pairs must be between 1 and {most} for seq_len {seq_len} (4 tokens a pair) "
            f"and vocab_size {vocab_size} (half of it keys), got {list(num_pairs)}"
        )
    if len(set(num_pairs)) < len(num_pairs):
        raise ValueError(f"mqar: num_pairs must differ, got {list(num_pairs)}")
    if not power > 0:
        raise ValueError(f"mqar: power must be positive, got {power}")


def _draw(weights: Tensor, num_rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` indices one after another without replacement, int32 (num_rows, count).

    An exponential race, the Gumbel trick without its logarithms: arrival times of rate w_i are
    t_i = e_i / w_i, and the first to arrive are such a draw, in order.
    """
    rows_at_once = max(1, 2**24 // len(weights))
    drawn = []
    for begin in range(0, num_rows, rows_at_once):
        rows = min(rows_at_once, num_rows - begin)
        times = torch.empty(rows, len(weights)).exponential_(generator=generator) / weights
        drawn.append(times.topk(count, dim=1, largest=False).indices.int())
    return torch.cat(drawn)


class MqarData(TaskData):
    """Generated rows: the same validation and test rows for every seed, other training rows.

    Args:
        source: "generated"; the benchmark has no other.
        num_pairs: P, or several for a mixture with an equal share of each.
        num_train: Training rows.
        num_eval: Validation rows, and test rows.
        power: See `Examples`, as `seq_len`, `vocab_size` and `filler`.

    Raises:
        ValueError: If there would be no row to train or to evaluate on, or a size does not fit.
    """

    train: Examples
    validation: Examples
    test: Examples

    def __init__(
        self,
        *,
        source: str = "generated",
        seq_len: int,
        num_pairs: int | Sequence[int],
        vocab_size: int = 8192,
        power: float = 0.01,
        filler: bool = False,
        num_train: int,
        num_eval: int,
        batch_size: int,
        eval_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed)
        if source != "generated":
            raise ValueError(f"mqar: source must be 'generated', got {source!r}")
        check_counts(num_train=num_train, num_eval=num_eval)
        self.num_pairs = [num_pairs] if isinstance(num_pairs, int) else list(num_pairs)
        _check_sizes(seq_len, self.num_pairs, vocab_size, power)
        if num_eval < len(self.num_pairs):
            raise ValueError(
                f"mqar: num_eval must be at least {len(self.num_pairs)}, a row for each of "
                f"num_pairs {self.num_pairs}, got {num_eval}"
            )
        self.settings = {"vocab_size": vocab_size, "power": power, "filler": filler}
        self.seq_len, self.vocab_size = seq_len, vocab_size
        self.num_train, self.num_eval = num_train, num_eval

    @property
    def dataset(self) -> str:
        """Its name with length and pairs; the benchmark itself is generated."""
        pairs = "+".join(str(pairs) for pairs in self.num_pairs)
        return f"MQAR-L{self.seq_len}-N{pairs}"

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes."""
        return {
            "vocab_size": self.vocab_size,
            "seq_len": self.seq_len,
            "num_pairs": self.num_pairs,
        }

    def setup(self, stage: str | None = None) -> None:
        """Generate what the stage needs."""
        if stage != "test":
            self.train = self._examples(self.num_train, self.seed)
            self.validation = self._examples(self.num_eval, VALIDATION_SEED)
        if stage != "fit":
            self.test = self._examples(self.num_eval, TEST_SEED)

    def _examples(self, num_rows: int, seed: int) -> Examples:
        return Examples(
            num_rows, seq_len=self.seq_len, num_pairs=self.num_pairs, seed=seed, **self.settings
        )


class Mqar(Task):
    """Cross-entropy at the queried keys.

    Args:
        slots: Give the attentions.
        num_pairs: The numbers of pairs that the data have.
        lr: The greatest learning rate of AdamW; the benchmark takes the best of several.
        weight_decay: Of AdamW.
        cooldown: The last share of the steps, in which the learning rate falls linearly to 0 after
            having been constant; None for a cosine over all steps.
        stop_accuracy: Training ends when the validation accuracy exceeds it; None for never.
        **sizes: Of the `RecallDecoder`.
    """

    patterns = frozenset({Pattern.CAUSAL_SELF})
    directions: ClassVar = {"accuracy": "higher"}
    backbone = "Zoology"

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        num_pairs: Sequence[int],
        lr: float,
        weight_decay: float = 0.1,
        cooldown: float | None = None,
        stop_accuracy: float | None = None,
        **sizes: Any,
    ) -> None:
        super().__init__(slots)
        if cooldown is not None and not 0 < cooldown <= 1:
            raise ValueError(f"mqar: cooldown must be in (0, 1] or null, got {cooldown}")
        self.decoder = RecallDecoder(slots, **sizes)
        self.seq_len = sizes["seq_len"]
        self.accuracy = Mean()
        self.num_pairs = list(num_pairs)
        self.by_pairs = nn.ModuleList(Mean() for _ in num_pairs)
        self.lr, self.weight_decay, self.cooldown = lr, weight_decay, cooldown
        self.stop_accuracy = stop_accuracy

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the queries."""
        logits = self.decoder(batch.tokens, batch.positions).float()
        answers = batch.answers.flatten()
        loss = F.cross_entropy(logits.flatten(0, 1), answers, ignore_index=IGNORED)
        return loss, (answers != IGNORED).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the examples by their share of right answers."""
        right, _ = self._right(batch)
        self.accuracy.update(right.sum(), len(right))
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same, and apart for each number of pairs."""
        right, num_queries = self._right(batch)
        self.accuracy.update(right.sum(), len(right))
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        for pairs, metric in self._by_pairs():
            chosen = right[num_queries == pairs]
            metric.update(chosen.sum(), len(chosen))

    def measure(self) -> list[dict[str, Any]]:
        """The test accuracy for each number of pairs."""
        return [
            {
                "metric": f"accuracy_{pairs}_pairs",
                "value": float(metric.compute()),
                "direction": "higher",
                "split": "test",
                "seq_len": self.seq_len,
            }
            for pairs, metric in self._by_pairs()
        ]

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        for _, metric in self._by_pairs():
            metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Stop when the task is solved."""
        if self.stop_accuracy is not None and self.accuracy.compute() > self.stop_accuracy:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        """AdamW, with the learning rate falling to 0 at the last step."""
        # Fused: with these few, small parameters the plain loop is a twentieth of a step.
        optimizer = torch.optim.AdamW(
            self.parameter_groups(self.lr), lr=self.lr, weight_decay=self.weight_decay, fused=True
        )
        num_steps = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            left = max(0.0, 1 - step / num_steps)
            if self.cooldown is None:
                return 0.5 - 0.5 * math.cos(math.pi * left)
            return min(1.0, left / self.cooldown)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _by_pairs(self) -> Iterator[tuple[int, Mean]]:
        return zip(self.num_pairs, cast(Iterable[Mean], self.by_pairs), strict=True)

    def _right(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The share of right answers of each example (B,), and its number of queries (B,)."""
        predicted = self.decoder(batch.tokens, batch.positions).argmax(dim=-1)
        num_queries = (batch.answers != IGNORED).sum(dim=1)
        return (predicted == batch.answers).sum(dim=1).double() / num_queries, num_queries
