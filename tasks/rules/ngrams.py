"""Rules that count runs of bytes, wherever in a document they stand.

A run is known by a hash of 20 bits. What a document has of them is a set: how often does not count.
"""

from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

BUCKETS = 2**20
Document = Callable[[int], np.ndarray]
"""The bytes of a document, uint8 (length,), by its number."""


def runs(document: np.ndarray, length: int) -> np.ndarray:
    """The hashes of the runs of `length` bytes of a document, ascending and each once."""
    hashes = np.zeros(max(len(document) - length + 1, 0), dtype=np.uint64)
    for offset in range(length if len(hashes) else 0):
        hashes *= np.uint64(0x100000001B3)
        hashes += document[offset : offset + len(hashes)]
    hashes *= np.uint64(0x9E3779B97F4A7C15)
    return np.unique((hashes >> np.uint64(44)).astype(np.int64))


def naive_bayes(
    train: tuple[Document, Tensor], test: tuple[Document, Tensor], *, length: int = 6
) -> float:
    """The accuracy of naive Bayes on the runs that a document has.

    Args:
        train: Documents and their labels, int64 (rows,); document i has label i.
        test: Likewise.
        length: Of the runs, in bytes.
    """
    labels = train[1].numpy()
    counts = np.ones((int(labels.max()) + 1, BUCKETS))
    for number, label in enumerate(labels):
        counts[label, runs(train[0](number), length)] += 1
    weights = np.log(counts / counts.sum(axis=1, keepdims=True))
    prior = np.log(np.bincount(labels) + 1)
    guesses = [
        (prior + weights[:, runs(test[0](number), length)].sum(axis=1)).argmax()
        for number in range(len(test[1]))
    ]
    return float((np.array(guesses) == test[1].numpy()).mean())


class Overlap:
    """How much two documents share, by the cosine of their runs, of which rare ones weigh more.

    Args:
        documents: What rarity is counted on.
        length: Of the runs, in bytes.
    """

    def __init__(self, documents: Iterable[np.ndarray], *, length: int = 6) -> None:
        self.length = length
        counts, total = np.ones(BUCKETS), 1
        for document in documents:
            counts[runs(document, length)] += 1
            total += 1
        self.weights = np.log((total + 1) / counts) ** 2

    def __call__(self, one: np.ndarray, other: np.ndarray) -> float:
        """Of one pair, 0 to 1."""
        first, second = runs(one, self.length), runs(other, self.length)
        both = self.weights[np.intersect1d(first, second, assume_unique=True)].sum()
        norms = self.weights[first].sum() * self.weights[second].sum()
        return float(both / np.sqrt(norms)) if norms > 0 else 0.0


def threshold(
    train_scores: np.ndarray, train_labels: Tensor, test_scores: np.ndarray, test_labels: Tensor
) -> float:
    """The accuracy of calling 1 what scores above the bound that is best for the training rows.

    Args:
        train_scores: float (rows,).
        train_labels: 0 or 1, int64 (rows,).
        test_scores: float (rows,).
        test_labels: int64 (rows,).
    """
    order = train_scores.argsort(kind="stable")
    ones = train_labels.numpy()[order]
    # Right answers if the first i rows are called 0 and the others 1.
    right = np.append(0, (1 - ones).cumsum()) + ones.sum() - np.append(0, ones.cumsum())
    ends = np.concatenate([[-np.inf], train_scores[order], [np.inf]])
    bounds = (ends[:-1] + ends[1:]) / 2
    bound = bounds[right.argmax()]
    return float(((test_scores > bound) == (test_labels.numpy() == 1)).mean())
