"""Convolutions by Fourier transforms against the direct sums."""

import pytest
import torch
from torch import Tensor

from attentions.functional.fft_convolution import _fast_size, fft_convolution


def direct(x: Tensor, kernel: Tensor, ahead: Tensor | None) -> Tensor:
    length = x.shape[-1]
    rows = []
    for i in range(length):
        row = sum(kernel[..., i - j] * x[..., j] for j in range(i + 1))
        if ahead is not None:
            row = row + sum(ahead[..., j - i - 1] * x[..., j] for j in range(i + 1, length))
        rows.append(row)
    return torch.stack(rows, dim=-1)


@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 37])
@pytest.mark.parametrize("both", [False, True])
def test_it_is_the_direct_sum(length: int, both: bool) -> None:
    x = torch.randn(3, 1, 4, length, dtype=torch.float64)
    kernel, ahead = torch.randn(2, 2, 4, length, dtype=torch.float64)
    actual = fft_convolution(x, kernel, ahead if both else None)
    assert actual.shape == (3, 2, 4, length)
    torch.testing.assert_close(actual, direct(x, kernel, ahead if both else None))


def test_sizes_are_small_multiples_of_powers_of_two() -> None:
    sizes = [_fast_size(size) for size in (1, 2, 3, 7, 9, 11, 13, 17, 8191, 8193)]
    assert sizes == [1, 2, 3, 8, 10, 12, 16, 20, 8192, 10240]
