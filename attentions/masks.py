"""Which keys a query sees: the sparse patterns, as mask functions of torch's flex_attention.

A mask says for sample b, head h, query i and key j whether the query may attend to the key. The
kernel asks it about positions; `functional.flex` also asks it about whole blocks, with spans for i
and j (`functional.spans`).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from attentions.functional.spans import lookup, rising

Mask = Callable[[Tensor, Tensor, Any, Any], Any]
"""(b, h, i, j) to bool; spans i and j to an `Answer`."""


def both(first: Mask, second: Mask) -> Mask:
    """The keys that both masks allow (torch's `and_masks` takes no spans)."""

    def sees(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
        return first(b, h, i, j) & second(b, h, i, j)

    return sees


def either(first: Mask, second: Mask) -> Mask:
    """The keys that one of the masks allows, or both."""

    def sees(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
        return first(b, h, i, j) | second(b, h, i, j)

    return sees


def every(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
    """All keys."""
    return j >= 0


def causal(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
    """The keys up to the query."""
    return j <= i


def window(before: int, after: int) -> Mask:
    """The keys from i - before to i + after."""

    def sees(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
        return (i - j <= before) & (j - i <= after)

    return sees


def window_around(centre: Tensor, before: int, after: int) -> Mask:
    """The keys from centre_i - before to centre_i + after.

    Args:
        centre: int64 (1 or B, M), not decreasing.
        before: Keys before the centre.
        after: Keys after the centre.
    """

    def sees(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
        place = rising(centre, b if len(centre) > 1 else 0, i)
        return (place - j <= before) & (j - place <= after)

    return sees


def same_block(size: int) -> Mask:
    """The keys of the query's own block of `size`."""

    def sees(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
        return i // size == j // size

    return sees


def blocks(table: Tensor, size: int) -> Mask:
    """The keys of the blocks of `size` that the query's block sees.

    Args:
        table: Bool (1 or B, H, blocks of queries, blocks of keys).
        size: Positions per block.
    """

    def sees(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
        return lookup(table, b if len(table) > 1 else 0, h, i // size, j // size)

    return sees


def first_keys(count: int) -> Mask:
    """The first keys of the sequence, for every query."""

    def sees(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
        return j <= count - 1

    return sees


def last_of_blocks(size: int, count: int) -> Mask:
    """The last `count` keys of each block of `size`, for every query."""

    def sees(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
        return j % size >= size - count

    return sees


def column(stride: int) -> Mask:
    """The keys at a distance that is a multiple of `stride`."""

    def sees(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
        return (i - j) % stride == 0

    return sees


def unpadded(key_padding_mask: Tensor) -> Mask:
    """The keys that are no padding, which is True in the mask (B, N)."""
    visible = ~key_padding_mask

    def sees(b: Tensor, h: Tensor, i: Any, j: Any) -> Any:
        return lookup(visible, b, j)

    return sees
