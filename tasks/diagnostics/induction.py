"""Induction heads: after the second sight of a trigger, say what followed the first.

Source: Gu and Dao, "Mamba", arXiv:2312.00752, section 4.1.2, after Olsson et al., 2022. Trained at
one length and tested at others: what it measures is how positions extrapolate, not recall.
Departs from it: the trigger is one of the V tokens and stands nowhere else, so that chance is
1 / (V - 1). The noncausal and the cross patterns are ours.
In: tokens (B, N), the last of them the trigger. Out: one token, read there. Scores: argmax over the
vocabulary, mean over the examples, also apart for each length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from attentions.base import Pattern
from tasks.data import TEST_SEED, VALIDATION_SEED, GeneratedData, check_counts
from tasks.diagnostics.answers import Answering, Answers, Fresh, Group, Mixture
from tasks.rules import answers as rules


@dataclass(frozen=True)
class Settings:
    """One setting. Tokens are 0 .. V - 2, and V - 1 is the trigger.

    Attributes:
        seq_len: N, with both triggers.
        vocab_size: V.

    Raises:
        ValueError: If the row is too short, or there is nothing to tell apart.
    """

    seq_len: int = 256
    vocab_size: int = 16

    def __post_init__(self) -> None:
        if self.seq_len < 3:
            raise ValueError(
                f"induction: seq_len >= 3 must hold (trigger, token, trigger), got {self.seq_len}"
            )
        if self.vocab_size < 3:
            raise ValueError(
                "induction: vocab_size >= 3 must hold (two tokens and the trigger), "
                f"got {self.vocab_size}"
            )


class Rows(NamedTuple):
    """Rows: tokens int32 (rows, N), and what to say at the last, int32 (rows, 1)."""

    tokens: NDArray[np.int32]
    answers: NDArray[np.int32]


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Rows:
    """`count` rows; the first trigger stands anywhere but in the last two places."""
    rng = np.random.default_rng(seed)
    length, trigger = settings.seq_len, settings.vocab_size - 1
    tokens = rng.integers(trigger, size=(count, length), dtype=np.int32)
    first, rows = rng.integers(length - 2, size=count), np.arange(count)
    tokens[rows, first] = tokens[:, -1] = trigger
    return Rows(tokens, tokens[rows, first + 1, None])


class InductionData(GeneratedData):
    """Generated rows: the same validation and test rows for every seed, other training rows.

    In the cross patterns all but the last token are the context, and the trigger is the query.

    Args:
        seq_len: N of the training and validation rows.
        test_seq_lens: N of the test rows, each with an equal share.
        vocab_size: See `Settings`.
        num_train: Training rows of an epoch.
        num_eval: Validation rows, and test rows of all lengths.
        fresh: Whether training rows are drawn anew in each epoch.
        pattern: Which of the four patterns the rows are laid out for.
        **given: See `GeneratedData`.
    """

    title = "induction"
    train: Answers | Fresh
    validation: Answers
    test: Mixture

    def __init__(
        self,
        *,
        seq_len: int,
        test_seq_lens: Sequence[int],
        vocab_size: int,
        num_train: int,
        num_eval: int,
        fresh: bool = True,
        pattern: str = "causal_self",
        **given: Any,
    ) -> None:
        super().__init__(**given)
        check_counts(num_train=num_train, num_eval=num_eval)
        self.settings = Settings(seq_len, vocab_size)
        self.tested = [Settings(length, vocab_size) for length in test_seq_lens]
        if not 1 <= len(self.tested) <= num_eval:
            raise ValueError(
                "induction: 1 <= lengths of test_seq_lens <= num_eval must hold, "
                f"got {len(self.tested)} and {num_eval}"
            )
        self.num_train, self.num_eval, self.fresh = num_train, num_eval, fresh
        self.pattern = Pattern(pattern)

    @property
    def dataset(self) -> str:
        """Its name with the length of training."""
        return f"induction-L{self.settings.seq_len}"

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes, and the groups of the test rows."""
        longest = max(s.seq_len for s in [self.settings, *self.tested])
        is_cross = self.pattern.is_cross
        return {
            "vocab_size": self.settings.vocab_size,
            "seq_len": 1 if is_cross else longest,
            "context_len": longest - 1 if is_cross else None,
            "groups": [Group("by_length", s.seq_len) for s in self.tested],
        }

    def setup(self, stage: str | None = None) -> None:
        """Generate what the stage needs."""
        if stage != "test":
            fresh = Fresh(self.num_train, self._train_rows, seed=(self.seed,))
            self.train = fresh if self.fresh else self._train_rows((self.seed,), self.num_train)
            self.validation = self._train_rows((VALIDATION_SEED,), self.num_eval)
        if stage != "fit":
            each = self.num_eval // len(self.tested)
            self.test = Mixture(
                [
                    self._rows(settings, (TEST_SEED, number), each, number)
                    for number, settings in enumerate(self.tested)
                ]
            )

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """The most frequent token, and the last before the trigger."""
        train = self._train_rows((self.seed,), min(self.num_train, 10_000)).every().answers
        frequent = rules.most_frequent(train)
        right = {"majority": 0.0, "last value": 0.0}
        for member in self.test.members:
            batch = member[torch.arange(len(member))]
            shown = batch.tokens[:, :-1] if batch.context is None else batch.context
            for rule, guess in (("majority", frequent), ("last value", shown[:, -1:])):
                right[rule] += float(rules.shares_right(guess, batch.answers).sum())
        return {rule: {"accuracy": count / len(self.test)} for rule, count in right.items()}

    def _train_rows(self, seed: Sequence[int], count: int) -> Answers:
        return self._rows(self.settings, seed, count)

    def _rows(
        self, settings: Settings, seed: Sequence[int], count: int, group: int | None = None
    ) -> Answers:
        tokens, answers = generate(seed, count, settings)
        cut = settings.seq_len - 1 if self.pattern.is_cross else 0
        return Answers(
            tokens[:, cut:],
            torch.full((count, 1), settings.seq_len - 1 - cut),
            answers,
            context=tokens[:, :cut] if cut else None,
            groups=None if group is None else torch.full((count,), group),
        )


class Induction(Answering):
    """Say what followed the trigger."""

    patterns = frozenset(Pattern)
