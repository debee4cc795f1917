"""Rules that answer without knowing what belongs to what: the most frequent, the last."""

import torch
from torch import Tensor

IGNORED = -100
"""In place of an answer, where an example has fewer than another."""


def shares_right(predicted: Tensor, answers: Tensor) -> Tensor:
    """The share of right answers of each example, float64 (B,).

    Args:
        predicted: int64 (B, P), or what broadcasts to it.
        answers: int64 (B, P), at least one of each row not `IGNORED`.
    """
    return (predicted == answers).sum(dim=1).double() / (answers != IGNORED).sum(dim=1)


def most_frequent(train: Tensor) -> Tensor:
    """The answer that is most frequent among those of the training rows (rows, P)."""
    return train[train != IGNORED].bincount().argmax()


def most_recent(tokens: Tensor, positions: Tensor, is_meant: Tensor) -> Tensor:
    """The token nearest before each position among those that are meant, (B, P); -1 if none is.

    Args:
        tokens: int64 (B, N).
        positions: int64 (B, P).
        is_meant: Bool (B, N): whether a token may be an answer.
    """
    places = torch.arange(tokens.shape[1]).expand_as(tokens)
    last = torch.where(is_meant, places, -1).cummax(dim=1).values.gather(1, positions)
    return torch.where(last < 0, -1, tokens.gather(1, last.clamp(min=0)))


def most_frequent_before(tokens: Tensor, positions: Tensor, is_meant: Tensor) -> Tensor:
    """The token that is most frequent up to each position, (B, P). See `most_recent`.

    Of several the least; the first of all tokens where none is meant.
    """
    size = int(tokens.max()) + 1
    one_hot = torch.nn.functional.one_hot(tokens, size) * is_meant[..., None]
    counts = one_hot.to(torch.int32).cumsum(dim=1)
    return counts.argmax(dim=-1).gather(1, positions)
