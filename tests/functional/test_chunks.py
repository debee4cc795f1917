"""Sequences in chunks, alone and behind those before."""

import pytest
import torch

from attentions.functional.chunks import in_chunks, unpadded_length, with_previous


def test_the_last_chunk_is_filled_up_with_zeros() -> None:
    chunks = in_chunks(torch.arange(1.0, 8.0)[:, None], 3)[..., 0]
    assert chunks.tolist() == [[1, 2, 3], [4, 5, 6], [7, 0, 0]]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, [[1, 2], [3, 4], [5, 6]]),
        (1, [[9, 9, 1, 2], [1, 2, 3, 4], [3, 4, 5, 6]]),
        (3, [[9, 9, 9, 9, 9, 9, 1, 2], [9, 9, 9, 9, 1, 2, 3, 4], [9, 9, 1, 2, 3, 4, 5, 6]]),
    ],
)
def test_each_chunk_stands_behind_those_before_it(count: int, expected: list[list[int]]) -> None:
    chunks = in_chunks(torch.arange(1.0, 7.0)[:, None], 2)
    assert with_previous(chunks, count, fill=9.0)[..., 0].tolist() == expected


def test_the_length_without_padding_ends_at_the_last_position_that_is_none() -> None:
    mask = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]], dtype=torch.bool)
    assert unpadded_length(torch.zeros(3, 4, 1), mask).tolist() == [4, 3, 1]
    assert unpadded_length(torch.zeros(3, 4, 1), None).tolist() == [4]
