"""Positions by whole blocks: what holds for some pair of them, and what for all.

A mask is written for one query and one key. Asked about a `Span` of queries and one of keys, the
same lines of code answer whether they allow any pair, and whether every pair.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """A condition on all pairs of a block, as two bool tensors; `&` and `|` combine them.

    Attributes:
        some: Whether any pair meets it. True also where two joined conditions are both met, but
            never by the same pair.
        all: Whether every pair meets it. False also where of two alternatives each is met by
            others.
    """

    some: Tensor
    all: Tensor

    def __and__(self, other: "Answer") -> "Answer":
        return Answer(self.some & other.some, self.all & other.all)

    def __or__(self, other: "Answer") -> "Answer":
        return Answer(self.some | other.some, self.all | other.all)


@dataclass(frozen=True, eq=False)
class Span:
    """The integers from `first` to `last`, both among them: int64 tensors of one shape."""

    first: Tensor
    last: Tensor

    def __sub__(self, other: "Span") -> "Span":
        return Span(self.first - other.last, self.last - other.first)

    def __floordiv__(self, size: int) -> "Span":
        return Span(self.first // size, self.last // size)

    def __mod__(self, size: int) -> "Span":
        # Past a multiple of the size it has both 0 and size - 1.
        within = self.first // size == self.last // size
        first = torch.where(within, self.first % size, 0)
        return Span(first, torch.where(within, self.last % size, size - 1))

    def __le__(self, other: "Span | int") -> Answer:
        first, last = _ends(other)
        return Answer(self.first <= last, self.last <= first)

    def __ge__(self, other: "Span | int") -> Answer:
        first, last = _ends(other)
        return Answer(self.last >= first, self.first >= last)

    def __eq__(self, other: "Span | int") -> Answer:  # pyright: ignore[reportIncompatibleMethodOverride]
        first, last = _ends(other)
        meet = (self.first <= last) & (first <= self.last)
        return Answer(meet, (self.first == last) & (first == self.last))


def lookup(table: Tensor, *index: Any) -> Any:
    """table[index] of a bool table; with spans in the index, over all entries that they name."""
    spans = {dim: n for dim, n in enumerate(index) if isinstance(n, Span)}
    if not spans:
        return table[index]
    # Sums over the table up to each corner: the entries of a rectangle from those of its corners.
    sums, size = table.int(), 1
    for dim, span in spans.items():
        none = torch.zeros_like(sums.narrow(dim, 0, 1))
        sums = torch.cat([none, sums.cumsum(dim, dtype=sums.dtype)], dim=dim)
        size = size * (span.last - span.first + 1)
    count = torch.zeros((), dtype=torch.int64, device=table.device)
    for at_end in product((True, False), repeat=len(spans)):
        corner = list(index)
        for (dim, span), end in zip(spans.items(), at_end, strict=True):
            corner[dim] = span.last + 1 if end else span.first
        count = count + (-1) ** at_end.count(False) * sums[tuple(corner)]
    return Answer(count > 0, count == size)


def rising(table: Tensor, row: Tensor | int, place: Any) -> Any:
    """table[row, place] of an integer table whose rows do not decrease."""
    if isinstance(place, Span):
        return Span(table[row, place.first], table[row, place.last])
    return table[row, place]


def _ends(x: Span | int) -> tuple[Tensor | int, Tensor | int]:
    return (x.first, x.last) if isinstance(x, Span) else (x, x)
