"""Stacks: several of them, pushed and popped by name in turn.

Source: the stack task of Kimi Linear, Moonshot AI 2025, arXiv:2510.26692: 64 stacks, operations
"push a token on stack i" and "pop stack i", what is popped being predicted.
Departs from it: the paper gives no law of the operations. Ours: a pop with probability 1/2 wherever
some stack has a token, of a stack that is drawn uniformly among those; a push is on any stack.
In: pairs of tokens, (push i, token) or (pop i, what was popped). Out: what was popped, read at the
pop; it is shown afterwards, as to a language model. Scores: argmax over the vocabulary, mean over
the pops of a row, then over rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.diagnostics.questions import Questions, QuestionsData, StreamAnswerer
from tasks.rules.answers import IGNORED

ROWS_AT_ONCE = 1024
"""Whose stacks are in memory together."""


@dataclass(frozen=True)
class Settings:
    """Of one kind of row.

    Attributes:
        length: Tokens of a row, two an operation.
        num_stacks: Their pushes are tokens 0 .. num_stacks - 1, and their pops the next as many.
        num_tokens: Kinds of tokens to push, the last of the vocabulary.

    Raises:
        ValueError: If no pop fits, or there is nothing to tell apart.
    """

    length: int
    num_stacks: int = 64
    num_tokens: int = 64

    def __post_init__(self) -> None:
        if self.length < 4 or self.length % 2:
            raise ValueError(f"stack: length >= 4 (a push, a pop), even, fails: {self.length}")
        if self.num_stacks < 1 or self.num_tokens < 2:
            raise ValueError(
                "stack: num_stacks >= 1 and num_tokens >= 2 fails: "
                f"{self.num_stacks}, {self.num_tokens}"
            )

    @property
    def vocab_size(self) -> int:
        """Pushes, pops, and what is pushed."""
        return 2 * self.num_stacks + self.num_tokens


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Questions:
    """Draw `count` rows; at least one operation of each is a pop."""
    rng = np.random.default_rng(seed)
    steps, stacks = settings.length // 2, settings.num_stacks
    size = (count, steps)
    wants_pop = rng.integers(2, size=size) == 1
    wants_pop[:, 1] = True  # after the push that always comes first
    pushed = rng.integers(settings.num_tokens, size=size) + 2 * stacks
    anywhere = rng.integers(stacks, size=size)
    ranks = rng.random(size)
    tokens = np.empty((count, settings.length), np.int32)
    answers = np.full(size, IGNORED, np.int32)
    for begin in range(0, count, ROWS_AT_ONCE):
        chunk = slice(begin, begin + ROWS_AT_ONCE)
        drawn = (wants_pop[chunk], pushed[chunk], anywhere[chunk], ranks[chunk])
        _play(stacks, *drawn, tokens[chunk], answers[chunk])
    positions = np.tile(2 * np.arange(steps, dtype=np.int32), (count, 1))
    return Questions(np.empty((count, 0), np.int32), tokens, positions, answers)


def _play(
    stacks: int,
    wants_pop: np.ndarray,
    pushed: np.ndarray,
    anywhere: np.ndarray,
    ranks: np.ndarray,
    tokens: np.ndarray,
    answers: np.ndarray,
) -> None:
    """Write the tokens and answers of some rows, step by step."""
    count, steps = wants_pop.shape
    every = np.arange(count)
    held = np.zeros((count, stacks, steps), np.int32)
    heights = np.zeros((count, stacks), np.int64)
    for step in range(steps):
        is_filled = heights > 0
        num_filled = is_filled.sum(axis=1)
        pops = wants_pop[:, step] & (num_filled > 0)
        # The stack of a pop: the r-th of those that have a token.
        rank = (ranks[:, step] * num_filled).astype(np.int64)
        filled = (is_filled.cumsum(axis=1) > rank[:, None]).argmax(axis=1)
        stack = np.where(pops, filled, anywhere[:, step])
        heights[every, stack] -= pops
        top = held[every, stack, heights[every, stack]]
        token = np.where(pops, top, pushed[:, step])
        held[every, stack, heights[every, stack]] = token
        heights[every, stack] += ~pops
        tokens[:, 2 * step] = stack + stacks * pops
        tokens[:, 2 * step + 1] = token
        answers[pops, step] = token[pops]


class StackData(QuestionsData):
    """Rows of one length.

    Args:
        length: See `Settings`, as `num_stacks` and `num_tokens`.
        **given: See `QuestionsData`.
    """

    title = "stack"
    generate = staticmethod(generate)

    def __init__(self, *, length: int, num_stacks: int, num_tokens: int, **given: Any) -> None:
        kind = Settings(length, num_stacks, num_tokens)
        groups = {f"length_{length}": kind}
        super().__init__([kind], groups, vocab_size=kind.vocab_size, **given)

    @property
    def dataset(self) -> str:
        """Its name with length and number of stacks; the task itself is generated."""
        kind = self.kinds[0]
        return f"Stack-L{kind.length}-S{kind.num_stacks}"

    def rules(self, rows: Questions) -> dict[str, np.ndarray]:
        """The token of the operation before, whichever its stack."""
        last = np.roll(rows.queries, 1, axis=1)[:, ::2]
        return {"last token": rows.answers == last}


class Stack(StreamAnswerer):
    """Tell what is popped."""
