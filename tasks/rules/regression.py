"""Rules that fit a function to the examples of a row: lines to read a learned regression beside.

Shapes: B rows, n examples (which may be 0, where every rule says zero), Q points asked, d, m.
"""

from collections.abc import Callable

import torch
from torch import Tensor

NUM_NEIGHBOURS = 3


def zero(x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    """No fit: 0. From x (B, n, d), y (B, n, m) and asked (B, Q, d) to (B, Q, m), as all here."""
    del x
    return asked.new_zeros(*asked.shape[:2], y.shape[2])


def averaging(x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    """The weights are the mean of y x, which is right in the mean for x of unit variance."""
    return asked @ (x.mT @ y) / max(1, x.shape[1])


def nearest_neighbours(x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    """The mean of the three examples nearest to the point, or of all if there are fewer."""
    count = min(NUM_NEIGHBOURS, x.shape[1])
    if count == 0:
        return zero(x, y, asked)
    near = torch.cdist(asked, x).topk(count, largest=False).indices  # (B, Q, count)
    rows = torch.arange(len(x))[:, None, None]
    return y[rows, near].mean(dim=2)


def least_squares(x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    """The least weights that fit best: exact from d examples on, if the function is linear."""
    if x.shape[1] == 0:
        return zero(x, y, asked)
    return asked @ torch.linalg.lstsq(x, y, driver="gelsd").solution


def least_squares_of_the_piece(x: Tensor, y: Tensor, asked: Tensor, same: Tensor) -> Tensor:
    """The same from the examples of the asked point's own piece, which nobody is told.

    Args:
        same: Whether an example is of the piece of a point, bool (B, n, Q).
    """
    if x.shape[1] == 0:
        return zero(x, y, asked)
    chosen = same.mT[..., None]  # (B, Q, n, 1)
    weights = torch.linalg.lstsq(x[:, None] * chosen, y[:, None] * chosen, driver="gelsd").solution
    return (asked[:, :, None] @ weights).squeeze(2)


RULES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "zero": zero,
    "averaging": averaging,
    "3 nearest neighbours": nearest_neighbours,
    "least squares": least_squares,
}
