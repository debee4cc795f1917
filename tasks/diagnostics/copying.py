"""Copying: a row of random tokens, to be said again in its order or backwards.

Source: the palindrome task of Kimi Linear, Moonshot AI 2025, arXiv:2510.26692, of lengths 256 to
2,048 by two layers of two heads of 128; `order: copy` is the older task of the same form.
Departs from it: `shown: false` leaves blanks where the answers asked before would stand, which is
ours: no answer is then in any input, so that the patterns that see later positions can be asked.
In: n tokens; then a separator and n - 1 answers or blanks. Out: n tokens. Scores: argmax over the
vocabulary, mean over the tokens of a row, then over rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from attentions.base import Pattern
from tasks.diagnostics.questions import Questions, QuestionsData

BLANK, SEPARATOR, FIRST = 0, 1, 2


@dataclass(frozen=True)
class Settings:
    """Of one kind of row.

    Attributes:
        num_tokens: n, to copy.
        vocab_size: Of blank, separator and the tokens to copy.
        order: "copy" or "palindrome", from the last to the first.
        shown: Whether each answer is shown once it has been asked for, as to a language model.

    Raises:
        ValueError: If there is nothing to copy, or no such order.
    """

    num_tokens: int
    vocab_size: int
    order: Literal["copy", "palindrome"] = "palindrome"
    shown: bool = True

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or self.vocab_size < FIRST + 2:
            raise ValueError(
                f"copying: num_tokens >= 1 and vocab_size >= {FIRST + 2} (blank, separator and two "
                f"tokens to tell apart) fails: {self.num_tokens}, {self.vocab_size}"
            )
        if self.order not in ("copy", "palindrome"):
            raise ValueError(f"copying: order must be 'copy' or 'palindrome', got {self.order!r}")


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Questions:
    """Draw `count` rows of uniform tokens."""
    rng = np.random.default_rng(seed)
    size = (count, settings.num_tokens)
    context = rng.integers(FIRST, settings.vocab_size, size=size, dtype=np.int32)
    answers = context if settings.order == "copy" else context[:, ::-1]
    queries = np.full(size, SEPARATOR, np.int32)
    queries[:, 1:] = answers[:, :-1] if settings.shown else BLANK
    positions = np.tile(np.arange(settings.num_tokens, dtype=np.int32), (count, 1))
    return Questions(context, queries, positions, np.ascontiguousarray(answers))


class CopyingData(QuestionsData):
    """Rows of one length.

    Args:
        num_tokens: See `Settings`, as `vocab_size`, `order` and `shown`.
        **given: See `QuestionsData`.

    Raises:
        ValueError: If answers would be shown to positions that come before their question.
    """

    title = "copying"
    generate = staticmethod(generate)

    def __init__(
        self,
        *,
        num_tokens: int,
        vocab_size: int,
        order: Literal["copy", "palindrome"],
        shown: bool,
        pattern: str,
        **given: Any,
    ) -> None:
        if shown and not Pattern(pattern).is_causal:
            raise ValueError(f"copying: shown answers leak in {pattern}; it needs shown: false")
        kind = Settings(num_tokens, vocab_size, order, shown)
        groups = {f"{num_tokens}_tokens": kind}
        super().__init__([kind], groups, vocab_size=vocab_size, pattern=pattern, **given)
        self.order = order

    @property
    def dataset(self) -> str:
        """Its name with the number of tokens; the task itself is generated."""
        return f"{self.order.capitalize()}-{self.kinds[0].num_tokens}"

    def rules(self, rows: Questions) -> dict[str, np.ndarray]:
        """The token before the separator, for all."""
        return {"last token": rows.answers == rows.context[:, -1:]}
