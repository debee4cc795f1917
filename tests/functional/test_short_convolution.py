"""The short convolution against torch's, and call after call."""

import pytest
import torch
import torch.nn.functional as F

from attentions.functional.short_convolution import (
    head_convolution,
    last_positions,
    short_convolution,
)
from tests.attentions.claims import draw


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_it_is_the_causal_conv1d_of_each_channel(length: int, width: int) -> None:
    x, weight = torch.randn(2, length, 5).double(), torch.randn(5, width).double()
    expected = F.conv1d(x.mT, weight[:, None], padding=width - 1, groups=5)[..., :length].mT
    torch.testing.assert_close(short_convolution(x, weight), expected)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("cuts", [[1, 1, 7], [2, 6, 1], [5, 4]])
def test_parts_are_the_whole(width: int, cuts: list[int]) -> None:
    x, weight = torch.randn(2, 9, 5).double(), torch.randn(5, width).double()
    before, parts = None, []
    for part in x.split(cuts, dim=1):
        parts.append(short_convolution(part, weight, before))
        before = last_positions(part, width - 1, before)
        assert before.shape == (2, width - 1, 5)
    torch.testing.assert_close(torch.cat(parts, dim=1), short_convolution(x, weight))


@pytest.mark.parametrize("length", [1, 5, 63, 64, 65, 200])
@pytest.mark.parametrize("width", [1, 5, 33])
def test_head_convolution_is_torchs_grouped_one(length: int, width: int) -> None:
    x, weight = draw(0, 2, 3, length, 4).requires_grad_(), draw(1, 3, width).requires_grad_()
    expected = F.conv2d(x, weight[:, None, :, None], padding=(width // 2, 0), groups=3)
    actual = head_convolution(x, weight)
    torch.testing.assert_close(actual, expected)
    upstream = draw(2, *actual.shape)
    gradients = [torch.autograd.grad(out, (x, weight), upstream) for out in (actual, expected)]
    torch.testing.assert_close(*gradients)
