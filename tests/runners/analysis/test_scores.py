"""Scores of maps that are written down."""

import math

import pytest
import torch
from torch import Tensor

from runners.analysis import scores


def of(name: str, weights: Tensor, padding: Tensor | None = None) -> list[float]:
    counts = scores.counted(weights, padding)
    return getattr(scores, name)(scores.shares(weights), counts).tolist()


def one_head(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[None, None]


EVEN = torch.ones(2, 3, 5, 5).double() / 5
SELF = torch.eye(5).double().expand(2, 3, 5, 5)


def test_even_weights_are_most_spread_and_a_single_one_least() -> None:
    assert of("entropy", EVEN) == pytest.approx([1, 1, 1])
    assert of("entropy", SELF) == [0, 0, 0]
    causal = torch.ones(1, 1, 6, 6).double().tril()
    expected = math.log(math.factorial(6)) / (6 * math.log(6))
    assert of("entropy", causal) == pytest.approx([expected])


def test_distance_is_in_tokens_and_to_both_sides() -> None:
    assert of("distance", SELF) == [0, 0, 0]
    assert of("distance", one_head([[0, 0, 1], [1, 0, 0], [0, 0.5, 0.5]])) == pytest.approx(
        [(2 + 1 + 0.5) / 3]
    )


def test_a_sink_is_the_key_that_most_goes_to() -> None:
    weights = one_head([[0.2, 0.8, 0], [0.3, 0.7, 0], [0.1, 0.3, 0.6]])
    assert of("first_key", weights) == pytest.approx([0.2])
    assert of("sink", weights) == pytest.approx([0.6])
    # Of each example its own: the first key of one, the last of the other.
    two = torch.cat([one_head([[1, 0], [1, 0]]), one_head([[0, 1], [0, 1]])])
    assert of("sink", two) == [1]
    assert of("first_key", two) == [0.5]


def test_signs_and_sums_do_not_matter_and_queries_without_weight_do_not_count() -> None:
    weights = one_head([[-3, 3], [0, 0], [0, 0.5]])
    assert of("first_key", weights) == pytest.approx([(0.5 + 0) / 2])
    assert of("entropy", weights) == pytest.approx([(1 + 0) / 2])


def test_padded_queries_do_not_count() -> None:
    weights = one_head([[1, 0], [0, 1]])
    padding = torch.tensor([[False, True]])
    assert of("first_key", weights, padding) == [1]


def test_retrieval_is_how_often_the_largest_weight_lies_on_the_answer() -> None:
    tokens = torch.tensor([[7, 8, 9, 8]])
    weights = torch.zeros(1, 2, 4, 4)
    weights[0, :, 1] = torch.tensor([[0.0, -0.6, 0.4, 0.0], [0.5, 0.4, 0.1, 0.0]])
    weights[0, :, 3] = torch.tensor([[0.2, 0.2, 0.1, 0.5], [0.0, 0.0, 0.1, 0.9]])
    positions = torch.tensor([[1, 3, 3, 2]])
    # 8 stands twice, 5 nowhere, and the last is no answer.
    answers = torch.tensor([[8, 8, 5, scores.IGNORED]])
    found = scores.retrieval(weights, positions, answers, tokens)
    assert found.tolist() == [1.0, 0.5]
    nowhere = scores.retrieval(weights, positions, torch.full_like(answers, 5), tokens)
    assert nowhere.isnan().all()
