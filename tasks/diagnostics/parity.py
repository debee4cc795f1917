"""Parity and counting: the sum of the tokens so far, modulo m.

Source: the regular languages of Deletang et al., "Neural Networks and the Chomsky Hierarchy", ICLR
2023, arXiv:2207.02098 (parity, cyclic sums). Rows of 40 in training and up to 256 in the test are
ours: a mechanism that has learned the state's transition needs no other length, and one that has
learned a count of at most 40 fails beyond.
In: tokens 0 .. m - 1. Out: their sum modulo m, at each prefix or at the end. Scores: argmax over
the vocabulary, mean over the answers of a row, then over rows; for each length apart, where a row
counts the prefixes that the next shorter length does not have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.diagnostics.questions import Questions, QuestionsData, StreamAnswerer


@dataclass(frozen=True)
class Settings:
    """Of one kind of row.

    Attributes:
        length: Tokens of a row.
        modulus: m; 2 is parity.
        answer: "each": at each prefix; "end": of the whole row only.
        after: Prefixes up to this length are not asked.

    Raises:
        ValueError: If nothing would be asked, or there is no such choice.
    """

    length: int
    modulus: int = 2
    answer: Literal["each", "end"] = "each"
    after: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.after < self.length:
            raise ValueError(f"parity: 0 <= after < length fails: {self.after}, {self.length}")
        if self.modulus < 2:
            raise ValueError(f"parity: modulus >= 2 fails: {self.modulus}")
        if self.answer not in ("each", "end"):
            raise ValueError(f"parity: answer must be 'each' or 'end', got {self.answer!r}")


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Questions:
    """Draw `count` rows of uniform tokens; there is no context."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(settings.modulus, size=(count, settings.length), dtype=np.int32)
    first = settings.after if settings.answer == "each" else settings.length - 1
    positions = np.arange(first, settings.length, dtype=np.int32)
    return Questions(
        context=np.empty((count, 0), np.int32),
        queries=tokens,
        positions=np.tile(positions, (count, 1)),
        answers=(tokens.cumsum(axis=1) % settings.modulus)[:, first:].astype(np.int32),
    )


class ParityData(QuestionsData):
    """Rows of one length in training and of several in the test, each with its own score.

    Args:
        train_length: Of the training rows.
        test_lengths: Of the test rows, increasing.
        modulus: See `Settings`, as `answer`.
        **given: See `QuestionsData`.
    """

    title = "parity"
    generate = staticmethod(generate)

    def __init__(
        self,
        *,
        train_length: int,
        test_lengths: Sequence[int],
        modulus: int,
        answer: Literal["each", "end"],
        **given: Any,
    ) -> None:
        shorter = [0, *test_lengths[:-1]]
        groups = {
            f"length_{length}": Settings(length, modulus, answer, after)
            for length, after in zip(test_lengths, shorter, strict=True)
        }
        kind = Settings(train_length, modulus, answer)
        super().__init__([kind], groups, vocab_size=modulus, **given)

    @property
    def dataset(self) -> str:
        """Its name with modulus and training length; the task itself is generated."""
        kind = self.kinds[0]
        return f"Parity-mod{kind.modulus}-L{kind.length}"

    def rules(self, rows: Questions) -> dict[str, np.ndarray]:
        """The token read last."""
        last = np.take_along_axis(rows.queries, rows.positions.astype(np.int64), axis=1)
        return {"last token": rows.answers == last}


class Parity(StreamAnswerer):
    """Tell the sum modulo m so far."""
