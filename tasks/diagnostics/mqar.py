"""Multi-query associative recall: store key-value pairs, then answer for each key.

Source: Arora et al., "Zoology", ICLR 2024, arXiv:2312.04927, and its code.
Departs from them: see `tasks.diagnostics.answers` and, for the model, `tasks.backbones.recall`.
In: tokens (B, N). Out: the value of each of P pairs, read at the second sight of its key. Scores:
argmax over the whole vocabulary, mean over the keys of an example, then over the examples.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.data import TaskData, check_counts
from tasks.diagnostics.answers import (
    IGNORED,
    TEST_SEED,
    VALIDATION_SEED,
    Answering,
    Answers,
    Group,
)


class Examples(Answers):
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
        tokens = torch.zeros(num_rows, seq_len, dtype=torch.int32)
        queried = torch.zeros(num_rows, most, dtype=torch.int32)
        answers = torch.full((num_rows, most), IGNORED, dtype=torch.int32)
        groups = torch.arange(num_rows) % len(num_pairs)
        for i, pairs in enumerate(num_pairs):
            rows = torch.arange(i, num_rows, len(num_pairs))
            key, value = keys[rows, :pairs], values[rows, :pairs]
            slots = torch.arange(1.0, (seq_len - 2 * pairs) // 2 + 1) ** (power - 1)
            positions = 2 * pairs + 2 * _draw(slots, len(rows), pairs, generator)
            tokens[rows, : 2 * pairs] = torch.stack([key, value], dim=-1).flatten(1)
            tokens[rows[:, None], positions.long()] = key
            queried[rows, :pairs] = positions
            answers[rows, :pairs] = value
        if filler:
            noise = torch.randint(vocab_size, tokens.shape, dtype=torch.int32, generator=generator)
            tokens = torch.where(tokens == 0, noise, tokens)
        super().__init__(tokens, queried, answers, groups=groups)


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
            "groups": [Group(f"{pairs}_pairs", self.seq_len) for pairs in self.num_pairs],
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


class Mqar(Answering):
    """Answer each key with its value; the benchmark takes the best of several learning rates."""

    backbone = "Zoology"
