"""Evaluation rows are none of the training rows of any seed and epoch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.cab.forecasting import generate as series
from tasks.cab.point_cloud_completion import generate as clouds
from tasks.cab.summarization import generate as documents
from tasks.data import TEST_SEED, VALIDATION_SEED

GENERATORS: dict[str, Callable[[int], Tensor]] = {
    "series": lambda seed: series.generate(4, 16, 8, seed),
    "clouds": lambda seed: clouds.generate(4, seed).scan,
    "documents": lambda seed: documents.generate(4, seed)[0].tokens[:20],
}
EVALUATION = (VALIDATION_SEED, TEST_SEED)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("seed", EVALUATION)
def test_no_seed_of_a_run_gives_the_rows_of_an_evaluation(name: str, seed: int) -> None:
    """Of 2**40, torch's generators would take 0."""
    rows = GENERATORS[name](seed)
    for other in range(5):
        assert not torch.equal(GENERATORS[name](other), rows)


@pytest.mark.parametrize("seed", EVALUATION)
def test_no_seed_and_epoch_are_the_seed_of_an_evaluation(seed: int) -> None:
    """Of 2**40, numpy's would take (0, 256), which is the 256th epoch of seed 0."""
    words = np.random.SeedSequence(seed).generate_state(4).tolist()
    low, high = seed % 2**32, seed // 2**32
    assert np.random.SeedSequence((low, high)).generate_state(4).tolist() == words
    assert low > 10**6
    assert high > 10**6
