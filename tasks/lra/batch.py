"""A batch of Long Range Arena, the same for all of its tasks."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Sequences and their classes.

    Attributes:
        tokens: int64 (B, N), or (B, 2, N) for two documents.
        is_padding: Bool of the same shape, True where a token is padding.
        labels: int64 (B,).
    """

    tokens: Tensor
    is_padding: Tensor
    labels: Tensor
