"""Rules that name a label without reading: the most frequent one, of all or of what looks alike."""

import numpy as np
from torch import Tensor


def majority(train: Tensor, test: Tensor) -> float:
    """The accuracy of the most frequent label of the training rows.

    Args:
        train: Labels of the training rows, int64 (rows,).
        test: Of the test rows.
    """
    return (test == train.bincount().argmax()).double().mean().item()


def lookup(
    train_keys: Tensor, train_labels: Tensor, test_keys: Tensor, test_labels: Tensor
) -> float:
    """The accuracy of the label that is most frequent among the training rows of the same key.

    Args:
        train_keys: What a row looks like, int64 (rows,): its first token, say.
        train_labels: int64 (rows,).
        test_keys: Those of the test rows. One that no training row has gets the label that is most
            frequent in all.
        test_labels: int64 (rows,).
    """
    known, keys = np.unique(train_keys.numpy(), return_inverse=True)
    counts = np.zeros((len(known), int(train_labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (keys, train_labels.numpy()), 1)
    places = np.searchsorted(known, test_keys.numpy()).clip(max=len(known) - 1)
    guesses = np.where(
        known[places] == test_keys.numpy(), counts[places].argmax(axis=1), counts.sum(0).argmax()
    )
    return float((guesses == test_labels.numpy()).mean())
