"""A rule that knows how frequent each token is, and not what stands before it."""

import numpy as np


def frequencies(train: np.ndarray, test: np.ndarray, vocab_size: int) -> float:
    """The mean negative log-likelihood of test tokens under the frequencies of training, in nats.

    Args:
        train: Token numbers (tokens,). Each of the vocabulary counts once more than it is there.
        test: Token numbers (tokens,).
        vocab_size: How many there are.
    """
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    asked = np.bincount(test, minlength=vocab_size)
    return float(-(asked * np.log(counts / counts.sum())).sum() / len(test))
