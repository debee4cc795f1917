"""Pass-key retrieval: a number hidden in a long, repeated text.

Source: Mohtashami and Jaggi, "Landmark Attention", NeurIPS 2023, arXiv:2305.16300, and its code
(epfml/landmark-attention, commit d963e50, llama/run_test.py), whose sentences these are.
Departs from it: it asks a language model; here a small model is trained on the same sentences, a
word a token. So the key has a fixed number of digits, each a token (there 1 to 50,000); the filler
is counted in words, not characters, and is cut between words; digits that have been asked for are
shown to the model, right or wrong (there it reads its own).
In: task description, filler, the key's sentences, filler, then the question with all digits but the
last. Out: the digits. Scores: argmax over the vocabulary, mean over the digits of a row, then over
rows; also for each length and depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attentions.base import Pattern
from tasks.diagnostics.cross_recall import JoinedModel
from tasks.diagnostics.questions import Answerer, Questions, QuestionsData

DESCRIPTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
BEFORE_KEY, BETWEEN_KEYS, AFTER_KEY = "The pass key is", "Remember it.", "is the pass key."
QUESTION = "What is the pass key? The pass key is"
TEXTS = (DESCRIPTION, FILLER, BEFORE_KEY, BETWEEN_KEYS, AFTER_KEY, QUESTION)
WORDS: list[str] = sorted(set(" ".join(TEXTS).split()))
VOCAB_SIZE = 10 + len(WORDS)
"""The digits, whose tokens are their values, then the words."""


def encode(text: str) -> np.ndarray:
    """The tokens of its words, int32."""
    return np.array([10 + WORDS.index(word) for word in text.split()], np.int32)


@dataclass(frozen=True)
class Settings:
    """Of one kind of row.

    Attributes:
        num_filler: Words of filler, of both parts together.
        depth: The share of the filler that stands before the key.
        num_digits: Of the key, all equally likely.

    Raises:
        ValueError: If a number is out of range.
    """

    num_filler: int
    depth: float
    num_digits: int = 5

    def __post_init__(self) -> None:
        if self.num_filler < 0 or self.num_digits < 1:
            raise ValueError(
                "passkey: num_filler >= 0 and num_digits >= 1 fails: "
                f"{self.num_filler}, {self.num_digits}"
            )
        if not 0 <= self.depth <= 1:
            raise ValueError(f"passkey: 0 <= depth <= 1 fails: depth {self.depth}")

    @property
    def length(self) -> int:
        """Tokens of the whole: context and question."""
        words = sum(len(text.split()) for text in TEXTS if text is not FILLER)
        return words + self.num_filler + 3 * self.num_digits - 1


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Questions:
    """Draw `count` rows; they differ in their keys alone."""
    rng = np.random.default_rng(seed)
    digits = rng.integers(10, size=(count, settings.num_digits), dtype=np.int32)
    before = int(settings.depth * settings.num_filler + 0.5)

    def rows(text: str) -> np.ndarray:
        return np.tile(encode(text), (count, 1))

    def filler(num_words: int) -> np.ndarray:  # each part begins with the first sentence
        return np.tile(np.resize(encode(FILLER), num_words), (count, 1))

    context = [
        *(rows(DESCRIPTION), filler(before), rows(BEFORE_KEY), digits, rows(BETWEEN_KEYS)),
        *(digits, rows(AFTER_KEY), filler(settings.num_filler - before)),
    ]
    positions = len(QUESTION.split()) - 1 + np.arange(settings.num_digits, dtype=np.int32)
    return Questions(
        context=np.concatenate(context, axis=1),
        queries=np.concatenate([rows(QUESTION), digits[:, :-1]], axis=1),
        positions=np.tile(positions, (count, 1)),
        answers=digits,
    )


class Passkey(Answerer):
    """Cross-entropy at the digits; where later positions were seen, they would show them."""

    patterns = frozenset({Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS})
    backbone = "joined"
    network_of = JoinedModel


class PasskeyData(QuestionsData):
    """Rows of a grid of lengths and depths, each with its own score.

    Args:
        train_filler: Words of filler of the training rows, at every depth alike.
        test_filler: Of the test rows.
        depths: Of the key.
        num_digits: See `Settings`.
        **given: See `QuestionsData`.
    """

    title = "passkey"
    generate = staticmethod(generate)

    def __init__(
        self,
        *,
        train_filler: int,
        test_filler: Sequence[int],
        depths: Sequence[float],
        num_digits: int = 5,
        **given: Any,
    ) -> None:
        kinds = [Settings(train_filler, depth, num_digits) for depth in depths]
        groups = {}
        for num_filler in test_filler:
            for depth in depths:
                settings = Settings(num_filler, depth, num_digits)
                groups[f"length_{settings.length}_depth_{depth:g}"] = settings
        super().__init__(kinds, groups, vocab_size=VOCAB_SIZE, **given)

    @property
    def dataset(self) -> str:
        """Its name with the training length; the task itself is generated."""
        return f"Passkey-L{self.kinds[0].length}"

    def rules(self, rows: Questions) -> dict[str, np.ndarray]:
        """What knowing the digits but not their order gives."""
        same = rows.answers[:, :, None] == rows.answers[:, None]
        return {"any digit of the key": same.mean(axis=2)}
