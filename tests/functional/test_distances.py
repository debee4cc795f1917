"""Sinusoids of distances, and the view that moves scores by distance to their keys."""

import math

import pytest
import torch

from attentions.functional.distances import distance_sinusoids, skew


def test_sinusoids_of_each_distance_in_order() -> None:
    waves = distance_sinusoids(2, -1, 4, torch.zeros((), dtype=torch.float64))
    for row, distance in zip(waves, (2, 1, 0, -1), strict=True):
        angles = [distance, distance / 100]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64))


def test_half_precision_rounds_the_waves_and_not_the_distances() -> None:
    exact = distance_sinusoids(300, 200, 8, torch.zeros((), dtype=torch.float64))
    rounded = distance_sinusoids(300, 200, 8, torch.zeros((), dtype=torch.bfloat16))
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.double(), exact, rtol=0.0, atol=2**-8)


@pytest.mark.parametrize(
    ("num_rows", "width", "start", "step"),
    [(5, 5, 4, 1), (5, 9, 0, 1), (4, 12, 12, 3), (1, 2, 2, 2)],
)
def test_each_row_begins_where_it_should(num_rows: int, width: int, start: int, step: int) -> None:
    scores = torch.arange(2.0 * num_rows * width).view(2, num_rows, width)
    moved = skew(scores, start, step)
    assert moved.shape == (2, num_rows, width - step)
    for row in range(num_rows):
        for column in range(width - step):
            source = start - row * step + column
            if 0 <= source < width:
                assert torch.equal(moved[:, row, column], scores[:, row, source])


def test_nothing_is_copied() -> None:
    scores = torch.randn(3, 6, 8)
    assert skew(scores, 5, 1).untyped_storage().data_ptr() == scores.untyped_storage().data_ptr()
