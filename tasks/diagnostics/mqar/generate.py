"""MQAR: pairs of keys and values, and then the keys again, each to be answered with its value.

Source: Arora et al., "Zoology", ICLR 2024, arXiv:2312.04927, and its code; the separator is that of
Kimi Linear, arXiv:2510.26692.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.diagnostics.draws import ROWS_AT_ONCE, below, distinct, in_turn


@dataclass(frozen=True)
class Settings:
    """One setting of the task.

    A row is k1 v1 ... kN vN, given `num_passes` times, then slots of two tokens; the keys come
    again at the heads of N slots. Keys are of 1 .. V/2 - 1, values of V/2 .. V - 1, both without
    repetition. What is left is blank (token 0).

    Attributes:
        seq_len: L, even.
        num_pairs: N.
        vocab_size: V, even.
        power: a of the law of the slots, p(i) ~ i^(a - 1) for i = 1, 2, ...; 1 is uniform, the
            harder law.
        filler: Whether the blanks become random tokens of the whole vocabulary.
        num_passes: How often the pairs are given.
        separator: Whether a token of its own, V, stands before the slots.

    Raises:
        ValueError: If the pairs do not fit into the length or the vocabulary.
    """

    seq_len: int = 64
    num_pairs: int = 4
    vocab_size: int = 8192
    power: float = 0.01
    filler: bool = False
    num_passes: int = 1
    separator: bool = False

    def __post_init__(self) -> None:
        if self.seq_len % 2 or self.vocab_size % 2:
            raise ValueError(
                "mqar: seq_len and vocab_size must be even, "
                f"got {self.seq_len} and {self.vocab_size}"
            )
        if self.num_pairs < 1 or self.num_passes < 1:
            raise ValueError(
                "mqar: num_pairs and num_passes must be positive, "
                f"got {self.num_pairs} and {self.num_passes}"
            )
        if self.num_pairs > self.vocab_size // 2 - 1:
            raise ValueError(
                "mqar: num_pairs <= vocab_size / 2 - 1 must hold (half of it are keys), "
                f"got {self.num_pairs} > {self.vocab_size // 2 - 1}"
            )
        needed = self.context_len + int(self.separator) + 2 * self.num_pairs
        if needed > self.seq_len:
            raise ValueError(
                "mqar: 2 num_pairs num_passes + separator + 2 num_pairs <= seq_len must hold, "
                f"got {self.context_len} + {int(self.separator)} + {2 * self.num_pairs} = {needed} "
                f"> {self.seq_len}"
            )
        if not self.power > 0:
            raise ValueError(f"mqar: power must be positive, got {self.power}")

    @property
    def context_len(self) -> int:
        """Where the pairs end."""
        return 2 * self.num_pairs * self.num_passes

    @property
    def num_tokens(self) -> int:
        """The vocabulary with the separator."""
        return self.vocab_size + int(self.separator)


class Rows(NamedTuple):
    """Rows of MQAR.

    Attributes:
        tokens: int32 (rows, L).
        positions: Where the key of each pair, in their order, is asked for, int32 (rows, N).
        answers: Its value, int32 (rows, N).
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    answers: NDArray[np.int32]


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Rows:
    """`count` rows."""
    rng = np.random.default_rng(seed)
    made = Rows(
        np.zeros((count, settings.seq_len), dtype=np.int32),
        np.empty((count, settings.num_pairs), dtype=np.int32),
        np.empty((count, settings.num_pairs), dtype=np.int32),
    )
    # By chunks that stay in the processor's caches.
    rows = max(ROWS_AT_ONCE, 2**18 // settings.seq_len)
    for begin in range(0, count, rows):
        _fill(rng, settings, Rows(*(part[begin : begin + rows] for part in made)))
    return made


def _fill(rng: np.random.Generator, settings: Settings, made: Rows) -> None:
    count, pairs, half = len(made.tokens), settings.num_pairs, settings.vocab_size // 2
    keys = distinct(rng, count, half - 1, pairs) + 1
    made.answers[:] = distinct(rng, count, half, pairs) + half
    begin = settings.context_len
    for start in range(0, begin, 2 * pairs):
        made.tokens[:, start : start + 2 * pairs : 2] = keys
        made.tokens[:, start + 1 : start + 2 * pairs : 2] = made.answers
    if settings.separator:
        made.tokens[:, begin] = settings.vocab_size
        begin += 1
    slots = np.arange(1.0, (settings.seq_len - begin) // 2 + 1) ** (settings.power - 1)
    made.positions[:] = begin + 2 * in_turn(rng, count, slots, pairs)
    made.tokens[np.arange(count)[:, None], made.positions] = keys
    if settings.filler:
        noise = below(rng, made.tokens.shape, settings.vocab_size)
        np.copyto(made.tokens, noise, where=made.tokens == 0, casting="same_kind")
