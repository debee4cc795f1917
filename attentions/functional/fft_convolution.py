"""Convolutions as long as the sequence, by Fourier transforms."""

import math

import torch
from torch import Tensor


def fft_convolution(x: Tensor, kernel: Tensor, ahead: Tensor | None = None) -> Tensor:
    """out_i = sum over j <= i of kernel_{i-j} x_j, plus that over j > i of ahead_{j-i-1} x_j.

    L log L time. The rounding is relative to the largest output, not to each: in float32 what comes
    late can move what was early by a ten-millionth of its size.

    Args:
        x: (..., L), float32 or float64.
        kernel: (..., L), broadcasts with x.
        ahead: As kernel, for the positions after each; None for a causal convolution.

    Returns:
        (..., L).
    """
    length = x.shape[-1]
    size = _fast_size(2 * length - 1)
    if ahead is not None:
        # Round the circle from behind: the last of the kernel is one position ahead.
        between = kernel.new_zeros(*kernel.shape[:-1], size - 2 * length + 1)
        kernel = torch.cat([kernel, between, ahead[..., : length - 1].flip(-1)], dim=-1)
    spectrum = torch.fft.rfft(x, size) * torch.fft.rfft(kernel, size)
    return torch.fft.irfft(spectrum, size)[..., :length]


def _fast_size(size: int) -> int:
    """The next power of two, or three or five times one: a prime takes ten times as long."""
    return min(odd << (math.ceil(size / odd) - 1).bit_length() for odd in (1, 3, 5))
