"""Means, and perplexity, over what was counted."""

import math

import pytest
import torch

from tasks.metrics.mean import Mean
from tasks.metrics.perplexity import Perplexity


def test_perplexity_counts_tokens_and_not_batches() -> None:
    metric = Perplexity()
    metric.update(torch.tensor(3 * math.log(2)), 3)
    metric.update(torch.tensor(math.log(32)), torch.tensor(1))
    # (2^3 x 32)^(1/4); the mean of the two batches' perplexities would be 17
    assert float(metric.compute()) == pytest.approx(4.0)


def test_small_terms_are_not_lost_in_a_large_sum() -> None:
    metric = Mean()
    metric.update(torch.tensor(2.0**24), 2**24)
    for _ in range(1000):  # in float32, 2^24 + 1 is 2^24
        metric.update(torch.tensor(1.0), 0)
    assert float(metric.total) == 2**24 + 1000


def test_a_batch_that_is_nan_does_not_vanish() -> None:
    metric = Mean()
    for total in (5.0, math.nan, 6.0):
        metric.update(torch.tensor(total), 1)
    assert math.isnan(metric.compute())


def test_reset_forgets() -> None:
    metric = Perplexity()
    metric.update(torch.tensor(5.0), 1)
    metric.reset()
    metric.update(torch.tensor(0.0), 2)
    assert float(metric.compute()) == 1.0
