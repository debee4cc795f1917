"""Rules that count runs of bytes, or go on as before, against counts by hand."""

import numpy as np
import pytest
import torch

from tasks.rules.ngrams import Overlap, naive_bayes, runs, threshold
from tasks.rules.series import errors
from tasks.rules.tokens import frequencies
from tests.tasks.building import build_data


def array(text: bytes) -> np.ndarray:
    return np.frombuffer(text, dtype=np.uint8)


def test_runs_are_those_that_a_set_of_slices_has() -> None:
    text = np.random.default_rng(0).integers(4, size=900, dtype=np.uint8)
    expected = {text[i : i + 3].tobytes() for i in range(898)}
    found = runs(text, 3)
    assert len(found) == len(expected) == 64
    assert set(runs(text[100:200], 3)) <= set(found)
    assert not len(runs(text[:2], 3))


def test_naive_bayes_finds_the_word_that_tells() -> None:
    rng = np.random.default_rng(0)

    def document(label: int) -> np.ndarray:
        noise = rng.integers(97, 100, size=60, dtype=np.uint8).tobytes()
        return array(noise[:20] + (b"dreadful" if label else b"lovelier") + noise[20:])

    labels = torch.arange(60) % 2
    train, test = ([document(int(label)) for label in labels] for _ in range(2))
    assert naive_bayes((train.__getitem__, labels), (test.__getitem__, labels)) == 1.0


def test_rare_runs_weigh_more_than_those_of_every_document() -> None:
    common, rare = b"the common words of all ", b"quixotic"
    overlap = Overlap([array(common + bytes([i])) for i in range(50)])
    one, two = array(common + rare), array(rare + common)
    assert overlap(one, one) == pytest.approx(1.0)
    assert overlap(one, two) > 5 * overlap(one, array(common + b"zyxwvuts")) > 0
    assert overlap(one, array(b"123")) == 0.0


def test_a_threshold_is_the_best_of_all_on_the_training_rows() -> None:
    scores = np.array([0.1, 0.4, 0.35, 0.8, 0.9])
    labels = torch.tensor([0, 1, 0, 0, 1])
    found = threshold(scores, labels, scores, labels)
    by_hand = [np.mean((scores > b) == (labels.numpy() == 1)) for b in (0, 0.2, 0.38, 0.6, 0.85, 1)]
    assert found == max(by_hand) == 0.8
    assert threshold(scores, labels, np.array([0.0, 0.37, 0.38]), torch.tensor([0, 0, 1])) == 1.0


def test_a_series_goes_on_as_it_went() -> None:
    past = torch.tensor([[[1.0], [3.0]]])
    future = torch.tensor([[[3.0], [5.0]]])
    scores = errors([(past, future), (past, future)])
    assert scores["last value"] == {"mse": 2.0, "mae": 1.0}
    assert scores["mean of the past"] == {"mse": 5.0, "mae": 2.0}
    assert scores["mean of the training rows"] == {"mse": 17.0, "mae": 4.0}


def test_frequent_tokens_are_likely() -> None:
    train, test = np.array([0, 0, 0, 1]), np.array([0, 1, 2])
    expected = -np.log(np.array([4, 2, 1]) / 7).mean()
    assert frequencies(train, test, 3) == pytest.approx(expected)


@pytest.mark.parametrize("task", ["forecasting/tiny", "language_modeling/tiny"])
def test_tasks_of_cab_have_rules_for_each_of_their_metrics(task: str) -> None:
    data = build_data(task)
    data.setup()
    known = {"forecasting/tiny": {"mse", "mae"}}.get(task, {"perplexity", "bits_per_byte"})
    for scores in data.trivial_scores().values():
        assert scores.keys() == known
        assert all(value > 0 for value in scores.values())
