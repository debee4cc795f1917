"""Selective copying: remember a few tokens among noise, and say them in their order at the end.

Source: Gu and Dao, "Mamba", arXiv:2312.00752, after Arjovsky et al., 2016.
Departs from it: nothing that it states; where it is silent, the tokens stand at random different
places, and a token of its own asks for each answer. The noncausal and the cross patterns are ours.
In: tokens (B, N + c). Out: the c tokens, each read at its own asking token. Scores: argmax over the
vocabulary, mean over the answers of an example, then over the examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from attentions.base import Pattern
from tasks.data import TEST_SEED, VALIDATION_SEED, GeneratedData, check_counts
from tasks.diagnostics.answers import Answering, Answers, Fresh
from tasks.diagnostics.draws import distinct
from tasks.rules import answers as rules


@dataclass(frozen=True)
class Settings:
    """One setting. Tokens are 0 .. V - 3, noise is V - 2, and V - 1 asks.

    Attributes:
        seq_len: N, without what asks.
        num_copied: c.
        vocab_size: V.

    Raises:
        ValueError: If the tokens do not fit.
    """

    seq_len: int = 4096
    num_copied: int = 16
    vocab_size: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.num_copied <= self.seq_len:
            raise ValueError(
                "selective_copying: 1 <= num_copied <= seq_len must hold, "
                f"got {self.num_copied} and {self.seq_len}"
            )
        if self.vocab_size < 4:
            raise ValueError(
                "selective_copying: vocab_size >= 4 must hold (two tokens, the noise and what "
                f"asks), got {self.vocab_size}"
            )


class Rows(NamedTuple):
    """Rows: tokens int32 (rows, N + c), and what to say at the last c, int32 (rows, c)."""

    tokens: NDArray[np.int32]
    answers: NDArray[np.int32]


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Rows:
    """`count` rows."""
    rng = np.random.default_rng(seed)
    length, noise = settings.seq_len, settings.vocab_size - 2
    tokens = np.full((count, length + settings.num_copied), noise, dtype=np.int32)
    answers = rng.integers(noise, size=(count, settings.num_copied), dtype=np.int32)
    places = np.sort(distinct(rng, count, length, settings.num_copied), axis=1)
    tokens[np.arange(count)[:, None], places] = answers
    tokens[:, length:] = settings.vocab_size - 1
    return Rows(tokens, answers)


class SelectiveCopyingData(GeneratedData):
    """Generated rows: the same validation and test rows for every seed, other training rows.

    In the cross patterns the tokens among noise are the context, and what asks is the query.

    Args:
        seq_len: See `Settings`, as `num_copied` and `vocab_size`.
        num_train: Training rows of an epoch.
        num_eval: Validation rows, and test rows.
        fresh: Whether training rows are drawn anew in each epoch.
        pattern: Which of the four patterns the rows are laid out for.
        **given: See `GeneratedData`.
    """

    title = "selective_copying"
    train: Answers | Fresh
    validation: Answers
    test: Answers

    def __init__(
        self,
        *,
        seq_len: int,
        num_copied: int,
        vocab_size: int,
        num_train: int,
        num_eval: int,
        fresh: bool = True,
        pattern: str = "causal_self",
        **given: Any,
    ) -> None:
        super().__init__(**given)
        check_counts(num_train=num_train, num_eval=num_eval)
        self.settings = Settings(seq_len, num_copied, vocab_size)
        self.num_train, self.num_eval, self.fresh = num_train, num_eval, fresh
        self.pattern = Pattern(pattern)

    @property
    def dataset(self) -> str:
        """Its name with length and tokens."""
        return f"selective-copying-L{self.settings.seq_len}-N{self.settings.num_copied}"

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes."""
        asking, before = self.settings.num_copied, self.settings.seq_len
        is_cross = self.pattern.is_cross
        return {
            "vocab_size": self.settings.vocab_size,
            "seq_len": asking if is_cross else before + asking,
            "context_len": before if is_cross else None,
        }

    def setup(self, stage: str | None = None) -> None:
        """Generate what the stage needs."""
        if stage != "test":
            fresh = Fresh(self.num_train, self._rows, seed=(self.seed,))
            self.train = fresh if self.fresh else self._rows((self.seed,), self.num_train)
            self.validation = self._rows((VALIDATION_SEED,), self.num_eval)
        if stage != "fit":
            self.test = self._rows((TEST_SEED,), self.num_eval)

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """The most frequent token, and the last one, for every answer."""
        asked = self.test.every().answers
        train = self._rows((self.seed,), min(self.num_train, 10_000)).every().answers
        guesses = {"majority": rules.most_frequent(train), "last value": asked[:, -1:]}
        return {
            rule: {"accuracy": float(rules.shares_right(guess, asked).mean())}
            for rule, guess in guesses.items()
        }

    def _rows(self, seed: Sequence[int], count: int) -> Answers:
        tokens, answers = generate(seed, count, self.settings)
        cut = self.settings.seq_len if self.pattern.is_cross else 0
        context = tokens[:, :cut] if cut else None
        places = np.arange(self.settings.num_copied) + self.settings.seq_len - cut
        positions = torch.from_numpy(places).expand(count, -1)
        return Answers(tokens[:, cut:], positions, answers, context=context)


class SelectiveCopying(Answering):
    """Say the tokens in their order."""

    patterns = frozenset(Pattern)
