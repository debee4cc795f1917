"""Segment means against lists of segments written out."""

import pytest
import torch

from attentions.functional.segments import segment_means


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
    for mask in (None, torch.zeros(1, length, dtype=torch.bool)):
        actual, used = segment_means(x, 4, mask)
        assert actual[0, 0, :, 0].tolist() == pytest.approx(means, rel=1e-12)
        assert used[0].tolist() == [len(part) > 0 for part in expected]


def test_padding_is_left_out_wherever_it_stands() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 23, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 23, generator=generator) < 0.5
    mask[0], mask[2] = False, True
    actual, used = segment_means(x, 4, mask)
    for row in range(2):
        alone, all_used = segment_means(x[row, None][:, :, ~mask[row]], 4)
        torch.testing.assert_close(actual[row, None], alone)
        assert torch.equal(used[row, None], all_used)
    assert not used[2].any()
    assert torch.equal(actual[2], torch.zeros_like(actual[2]))
