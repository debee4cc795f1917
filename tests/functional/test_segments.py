"""Segments and their means against lists of segments written out."""

import pytest
import torch

from attentions.functional.segments import segment_means, segments
from tests.attentions.claims import draw


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (8, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (10, [[0, 1], [2, 3], [4, 5, 6], [7, 8, 9]]),
        (7, [[0], [1, 2], [3, 4], [5, 6]]),
        (4, [[0], [1], [2], [3]]),
        (2, [[0], [1], [], []]),
        (1, [[0], [], [], []]),
    ],
)
def test_segments_are_contiguous_and_nearly_equal(length: int, expected: list[list[int]]) -> None:
    # The mean of powers of two tells which positions are in it.
    x = (2.0 ** torch.arange(length, dtype=torch.float64))[None, None, :, None]
    means = [sum(2.0**i for i in part) / max(len(part), 1) for part in expected]
    members = segments(torch.zeros(1, length, dtype=torch.bool), 4)
    for given in (None, members):
        actual = segment_means(x, 4, given)
        assert actual[0, 0, :, 0].tolist() == pytest.approx(means, rel=1e-12)
    assert members is not None
    assert [row.nonzero().flatten().tolist() for row in members[0]] == expected


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ([1, 0, 0, 1, 0, 0, 1], [None, 0, 1, None, 2, 2, None]),
        ([0, 1, 0, 1, 1, 1, 1], [0, None, 1, None, None, None, None]),
        ([1, 1, 1, 1, 1, 1, 1], [None] * 7),
    ],
)
def test_padding_is_in_no_segment(padding: list[int], expected: list[int | None]) -> None:
    members = segments(torch.tensor([padding], dtype=torch.bool), 3)
    assert members is not None
    assert members[0].T.tolist() == [[place == s for s in range(3)] for place in expected]


def test_padding_is_left_out_of_the_means_wherever_it_stands() -> None:
    x = draw(0, 3, 2, 23, 5)
    mask = torch.rand(3, 23, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[0], mask[2] = False, True
    actual = segment_means(x, 4, segments(mask, 4))
    for row in range(2):
        alone = segment_means(x[row, None][:, :, ~mask[row]], 4)
        torch.testing.assert_close(actual[row, None], alone)
    assert torch.equal(actual[2], torch.zeros_like(actual[2]))


def test_without_padding_there_is_nothing_to_select() -> None:
    assert segments(None, 4) is None
