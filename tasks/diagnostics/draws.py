"""Random draws of many rows at once, the same on every machine.

A Generator of NumPy gives the same integers everywhere; what is made of them here are integers too.
The one table of logarithms is rounded to a grid far coarser than what machines differ in.
"""

import functools

import numpy as np
from numpy.typing import NDArray

LEVELS = 2**16
"""Of the uniform variable behind an arrival time."""
ROWS_AT_ONCE = 512
"""Enough that a step costs more than the call of it, few enough to stay in a cache."""


def below(
    rng: np.random.Generator, shape: tuple[int, ...], bounds: NDArray[np.uint64] | int
) -> NDArray[np.integer]:
    """Integers in [0, bound), of bounds that broadcast to the shape.

    By multiplication, whose bias is of the size bound / 2^32; a power of two takes fewer bits.
    """
    if isinstance(bounds, int) and LEVELS % bounds == 0:
        drawn = _words(rng, "<u2", shape)
        drawn &= np.uint16(bounds - 1)
        return drawn
    drawn = _words(rng, "<u4", shape).astype(np.uint64)
    drawn *= np.asarray(bounds, dtype=np.uint64)
    drawn >>= np.uint64(32)
    return drawn.view(np.int64)


def _words(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> NDArray[np.integer]:
    """Uniform words. 64 bits at once take half the time of 32, and stand alike on every machine."""
    size, parts = int(np.prod(shape)), 8 // np.dtype(dtype).itemsize
    drawn = rng.integers(0, 2**64, size=-(-size // parts), dtype=np.uint64)
    return drawn.astype("<u8", copy=False).view(dtype)[:size].reshape(shape)


def distinct(rng: np.random.Generator, num_rows: int, size: int, count: int) -> NDArray[np.int32]:
    """`count` different integers of [0, size) in random order, (num_rows, count).

    Rows with repeats are drawn again where most have none; else pools are shuffled partly.
    """
    if not 0 < count <= size:
        raise ValueError(f"cannot draw {count} different integers of {size}")
    if count * count > 2 * size:  # at which one row in e has no repeat
        return _shuffled(rng, num_rows, size, count)
    drawn = np.empty((num_rows, count), dtype=np.int32)
    rows = np.arange(num_rows)
    while len(rows):
        again = below(rng, (len(rows), count), size).astype(np.int32)
        drawn[rows] = again
        again.sort(axis=1)
        rows = rows[(again[:, 1:] == again[:, :-1]).any(axis=1)]
    return drawn


def _shuffled(rng: np.random.Generator, num_rows: int, size: int, count: int) -> NDArray[np.int32]:
    """Fisher and Yates' shuffle, ended after `count` steps, of all rows at once."""
    rows_at_once = min(num_rows, ROWS_AT_ONCE)
    stride = size + 16  # columns would share the sets of a cache if it were a power of 2
    pool = np.tile(np.arange(stride, dtype=np.int32), rows_at_once)
    drawn = np.empty((count, num_rows), dtype=np.int32)
    left = np.arange(size, size - count, -1, dtype=np.uint64)[:, None]
    for begin in range(0, num_rows, rows_at_once):
        rows = min(rows_at_once, num_rows - begin)
        starts = np.arange(rows) * stride
        steps = below(rng, (count, rows), left)
        # The pools stay as they are from one chunk to the next: shuffling one that is in any order
        # gives every order alike.
        for i in range(count):
            head = starts + i
            chosen = head + steps[i]
            drawn[i, begin : begin + rows] = taken = pool.take(chosen)
            pool[chosen] = pool.take(head)
            pool[head] = taken
    return drawn.T


def in_turn(
    rng: np.random.Generator, num_rows: int, weights: NDArray[np.float64], count: int
) -> NDArray[np.int32]:
    """`count` indices one after another without replacement, (num_rows, count).

    Each in proportion to its weight among those that are left. An exponential race: arrival times
    of rate w_i are e_i / w_i, and the first to arrive are such a draw, in order. Their logarithms
    are integers on a grid, above the bits of the index, which so decides between equal times.
    """
    bits = max(1, int(len(weights) - 1).bit_length())
    grid = 2.0 ** (32 - bits) / 64.0  # a span of e^64 holds any two times
    log_times = _log_times(grid)
    handicap = np.round(-np.log(weights / weights.max()) * grid).astype(np.int64)
    if int(handicap.max()) + int(log_times.max()) >= 2 ** (32 - bits):
        raise ValueError("weights that differ by more than e^48 cannot be drawn by")
    indices = np.arange(len(weights), dtype=np.uint32)
    offsets = (handicap.astype(np.uint32) << np.uint32(bits)) | indices
    shifted = log_times << np.uint32(bits)
    drawn = np.empty((num_rows, count), dtype=np.int32)
    for begin in range(0, num_rows, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, num_rows - begin)
        keys = shifted.take(_words(rng, "<u2", (rows, len(weights))))
        keys += offsets
        keys.sort(axis=1)
        drawn[begin : begin + rows] = keys[:, :count] & np.uint32(2**bits - 1)
    return drawn


@functools.cache
def _log_times(grid: float) -> NDArray[np.uint32]:
    """Logarithms of exponential variables, in 1 / grid from the least on, one for each level."""
    uniform = (np.arange(LEVELS) + 0.5) / LEVELS
    logs = np.log(-np.log(uniform))
    return np.round((logs - logs.min()) * grid).astype(np.uint32)
