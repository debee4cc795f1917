"""Perplexity over tokens."""

import math

import pytest
import torch

from tasks.metrics.perplexity import Perplexity


def test_it_counts_tokens_and_not_batches() -> None:
    metric = Perplexity()
    metric.update(torch.tensor(3 * math.log(2)), 3)
    metric.update(torch.tensor(math.log(32)), torch.tensor(1))
    # (2^3 x 32)^(1/4); the mean of the two batches' perplexities would be 17
    assert float(metric.compute()) == pytest.approx(4.0)


def test_small_terms_are_not_lost_in_a_large_sum() -> None:
    metric = Perplexity()
    metric.update(torch.tensor(2.0**24), 2**24)
    for _ in range(1000):  # in float32, 2^24 + 1 is 2^24
        metric.update(torch.tensor(1.0), 0)
    assert float(metric.total_nll) == 2**24 + 1000


def test_reset_forgets() -> None:
    metric = Perplexity()
    metric.update(torch.tensor(5.0), 1)
    metric.reset()
    metric.update(torch.tensor(0.0), 2)
    assert float(metric.compute()) == 1.0
