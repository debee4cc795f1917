"""Random ListOps expressions with what they come to, by the thousand.

Source: Nangia and Bowman, "ListOps", NAACL SRW 2018, arXiv:1804.06028; the law of the sizes is that
of Tay et al., "Long Range Arena", ICLR 2021, arXiv:2011.04006, and its code: an argument is an
operator with probability 1/4 unless it stands at the greatest depth, else a digit.
Departs from it: the root is always an operator, which is the same law, since a lone digit is too
short for any window; rows keep the order in which they are drawn (there that of a set).

All trees of a batch grow level by level, their values and sizes are found from the deepest level up
and their places from the root down, so that no step is taken for a single node.
"""

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tasks.lra.listops.expressions import CLOSE, DIGIT, OPERATOR, apply

VERSION = 1
"""Of the rows that a seed gives; see `tasks.shards`."""
SHORTEST = 4
"""Tokens of an operator with two digits."""
MOST_ARGS = 32
TREES_AT_ONCE = 1024
LEAST_SHARE = 1e-5
"""Of the trees that may have a wanted length."""
PARTS = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}
"""Which expressions may be in which part, by a hash of ten values."""


@dataclass(frozen=True)
class Settings:
    """What expressions are drawn from.

    Attributes:
        min_len: Expressions have more tokens than this, brackets counted.
        max_len: And fewer than this.
        max_depth: At which only digits stand; the root is at depth 1.
        max_args: The most arguments of an operator; the fewest are 2.
        part: Only the expressions that belong to this part of the data, so that no expression can
            be in two of them. Matters where they are so short that they come again; None for all.

    Raises:
        ValueError: If there are no such expressions, or hardly any.
    """

    min_len: int = 500
    max_len: int = 2000
    max_depth: int = 10
    max_args: int = 10
    part: Literal["train", "validation", "test"] | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_depth", 2), ("max_args", 2), ("min_len", 0)):
            if (given := getattr(self, name)) < least:
                raise ValueError(f"listops: {name} must be at least {least}, got {given}")
        if self.max_args > MOST_ARGS:
            raise ValueError(f"listops: max_args must be at most {MOST_ARGS}, got {self.max_args}")
        if self.part is not None and self.part not in PARTS:
            raise ValueError(f"listops: part must be one of {', '.join(PARTS)}, got {self.part!r}")
        if not SHORTEST < self.max_len < 2**16:
            raise ValueError(
                f"listops: {SHORTEST} < max_len < {2**16} is not so for max_len {self.max_len}: "
                f"the shortest expression, an operator with two digits, has {SHORTEST} tokens"
            )
        if not self.min_len + 1 < self.max_len:
            raise ValueError(
                "listops: min_len + 1 < max_len is not so for min_len "
                f"{self.min_len} and max_len {self.max_len}: no length lies between them"
            )
        longest = 1 + (self.max_args + 1) * sum(
            self.max_args**level for level in range(self.max_depth - 1)
        )
        if not self.min_len < longest:
            raise ValueError(
                f"listops: min_len < {longest} is not so for min_len {self.min_len}: the longest "
                f"expression of max_depth {self.max_depth} and max_args {self.max_args} has "
                f"{longest} tokens"
            )
        share = float(length_law(self)[self.min_len + 1 :].sum())
        if share < LEAST_SHARE:
            raise ValueError(
                f"listops: of the expressions of max_depth {self.max_depth} and max_args "
                f"{self.max_args} a share of {max(share, 0.0):.1e} has between min_len "
                f"{self.min_len} and max_len {self.max_len} tokens; it must be at least "
                f"{LEAST_SHARE:.0e}"
            )


class Expressions(NamedTuple):
    """Rows.

    Attributes:
        tokens: uint8 (rows, max_len), padded on the right; see `expressions.SYMBOLS`.
        lengths: Tokens that are not padding, uint16 (rows,).
        labels: What they come to, uint8 (rows,).
    """

    tokens: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Expressions:
    """Draw expressions one independently of the other."""
    rng = np.random.default_rng(seed)
    drawn: list[Expressions] = []
    missing = count
    while missing > 0:
        drawn.append(_draw(rng, missing, settings))
        missing -= len(drawn[-1].labels)
    empty = Expressions(
        np.zeros((0, settings.max_len), dtype=np.uint8),
        np.zeros(0, dtype=np.uint16),
        np.zeros(0, dtype=np.uint8),
    )
    return Expressions(*(np.concatenate(arrays) for arrays in zip(empty, *drawn, strict=True)))


class _Level(NamedTuple):
    """The operators at one depth, tree by tree and from left to right.

    Attributes:
        tree: Which tree each is of.
        num_args: How many arguments it has.
        nested: Which of them are operators: bits, the first argument's is the lowest.
    """

    tree: np.ndarray
    num_args: np.ndarray
    nested: np.ndarray


def _draw(rng: np.random.Generator, most: int, settings: Settings) -> Expressions:
    """What is of the wanted length and part among `TREES_AT_ONCE` trees, at most `most` rows."""
    levels, lengths = _grow(rng, settings)
    fits = (lengths > settings.min_len) & (lengths < settings.max_len)
    if settings.part is None:
        fits &= fits.cumsum() <= most
    numbers, lengths = fits.cumsum() - 1, lengths[fits]
    for depth, level in enumerate(levels):
        kept = fits[level.tree]
        tree, num_args, nested = (array[kept] for array in level)
        levels[depth] = _Level(numbers[tree], num_args, nested)
    tokens, labels = _write(rng, levels, len(lengths), settings)
    drawn = Expressions(tokens, lengths.astype(np.uint16), labels)
    if settings.part is None:
        return drawn
    wanted = PARTS[settings.part]
    hashes = [zlib.crc32(row[:n].tobytes()) % 10 for row, n in zip(tokens, lengths, strict=True)]
    chosen = [row for row, value in enumerate(hashes) if value in wanted][:most]
    return Expressions(*(array[chosen] for array in drawn))


def _grow(rng: np.random.Generator, settings: Settings) -> tuple[list[_Level], np.ndarray]:
    """Trees without their digits and the names of their operators, and their lengths."""
    tree = np.arange(TREES_AT_ONCE)
    lengths = np.ones(TREES_AT_ONCE, dtype=np.int64)
    levels = []
    for depth in range(1, settings.max_depth):
        num_args = rng.integers(2, settings.max_args + 1, size=len(tree), dtype=np.uint8)
        nested = np.zeros(len(tree), dtype=np.uint64)
        if depth + 1 < settings.max_depth:
            bits = rng.integers(2**64, size=len(tree), dtype=np.uint64)
            # A bit of both halves is set with probability 1/4.
            nested = bits & (bits >> 32) & ((np.uint64(1) << num_args.astype(np.uint64)) - 1)
        levels.append(_Level(tree, num_args, nested))
        # An operator takes the place of a digit, and brings its bracket and its arguments.
        brought = np.bincount(tree, weights=num_args + 1, minlength=TREES_AT_ONCE)
        lengths += brought.astype(np.int64)
        tree = np.repeat(tree, _num_bits(nested))
        tree = tree[lengths[tree] < settings.max_len]  # the others are too long as they are
    return levels, lengths


def _num_bits(words: np.ndarray) -> np.ndarray:
    """How many bits of each are set, of the lower 32."""
    return _BITS_OF[words & 0xFFFF] + _BITS_OF[words >> 16 & 0xFFFF]


_BITS_OF = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16)
_BITS_OF = _BITS_OF.sum(axis=1, dtype=np.int64)


def _write(
    rng: np.random.Generator, levels: list[_Level], num_trees: int, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Give the trees digits and operators: tokens (trees, max_len) and values (trees,)."""
    slots = np.arange(settings.max_args)
    filled = []
    values = sizes = np.zeros(0, dtype=np.int64)
    for level in reversed(levels):
        num_operators = len(level.tree)
        # Of all arguments (max_args, operators). One that is not there has size 0.
        digits = _digits(rng, len(slots), num_operators)
        operators = rng.integers(4, size=num_operators, dtype=np.uint8)
        widths = (slots[:, None].astype(np.uint8) < level.num_args).astype(np.int64)
        bits = np.unpackbits(level.nested.astype("<u4").view(np.uint8), bitorder="little")
        nested = np.flatnonzero(bits.view(bool))  # 32 for each operator
        places = (nested & 31) * num_operators + (nested >> 5)
        digits.ravel()[places], widths.ravel()[places] = values, sizes
        ends = widths.copy()
        for slot in slots[1:]:  # what cumsum does, which is slow along this axis
            ends[slot] += ends[slot - 1]
        values, sizes = apply(operators, digits, level.num_args), 2 + ends[-1]
        filled.append((operators, digits, places, ends - widths, sizes))
    tokens = np.zeros(num_trees * settings.max_len, dtype=np.uint8)
    begins = np.arange(num_trees) * settings.max_len
    for operators, digits, places, before, sizes in reversed(filled):
        at = begins + 1 + before
        tokens[at] = digits + DIGIT
        # Last, for an argument that is not there stands where its operator closes; and one that
        # is an operator is written over in its turn.
        tokens[begins + sizes - 1] = CLOSE
        tokens[begins] = operators + OPERATOR
        begins = at.ravel()[places]
    return tokens.reshape(num_trees, settings.max_len), values


def _digits(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Random digits, uint8 (rows, columns), nine from a number: ten times as fast as one by one."""
    digits = np.empty((rows, columns), dtype=np.uint8)
    for row in range(rows):
        if row % 9 == 0:
            numbers = rng.integers(10**9, size=columns, dtype=np.uint32)
        rest = numbers // 10
        digits[row] = numbers - 10 * rest
        numbers = rest
    return digits


@functools.lru_cache
def length_law(settings: Settings) -> np.ndarray:
    """How probable each length below `max_len` is for an operator at the root (max_len,)."""
    size = settings.max_len
    argument = np.zeros(size)  # of the lengths of an argument
    argument[1] = 1.0
    operator = np.zeros(size)
    for depth in range(settings.max_depth - 1, 0, -1):
        operator = np.zeros(size)
        run = argument
        for _ in range(2, settings.max_args + 1):
            run = _sum_of(run, argument)
            operator[2:] += run[:-2] / (settings.max_args - 1)
        if depth > 1:
            argument = operator / 4
            argument[1] += 3 / 4
    operator.flags.writeable = False  # it is kept
    return operator


def _sum_of(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The law of the sum of two independent lengths."""
    size = 2 * len(one)
    return np.fft.irfft(np.fft.rfft(one, size) * np.fft.rfft(other, size), size)[: len(one)]
