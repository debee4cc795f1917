"""Generated series: the past says what each phase is worth, and which phases are to come.

The channels are the cosine and the sine of a phase, and a value. In the first part of the
past each of `input_len` - `horizon` phases, evenly spaced from a random turn, is seen once, in
random order, with a random value. In the last `horizon` rows the phases of the future are
announced, and the value is zero. The future has the announced phases with their values.

So the decoder, which is given nothing, must read the announced rows (noncausal cross); and
what it needs of them, an encoder has to look up in other rows by their phase (noncausal self).
"""

import math

import torch
from torch import Tensor


def generate(num_windows: int, input_len: int, horizon: int, seed: int) -> Tensor:
    """Draw windows of past and future.

    Args:
        num_windows: Their number.
        input_len: Past rows, more than the future ones.
        horizon: Future rows.
        seed: Of the draws.

    Returns:
        (num_windows, input_len + horizon, 3), each channel of mean 0 and variance 1 but for the
        zeros.
    """
    generator = torch.Generator().manual_seed(seed)
    num_phases = input_len - horizon
    turn = torch.rand(num_windows, 1, generator=generator)
    order = torch.rand(num_windows, num_phases, generator=generator).argsort(dim=1)
    phase = 2 * math.pi * (order + turn) / num_phases
    value = torch.randn(num_windows, num_phases, generator=generator)
    coming = torch.randint(num_phases, (num_windows, horizon), generator=generator)
    next_phase, next_value = phase.gather(1, coming), value.gather(1, coming)
    phase = torch.cat([phase, next_phase, next_phase], dim=1)
    value = torch.cat([value, torch.zeros_like(next_value), next_value], dim=1)
    return torch.stack([math.sqrt(2) * phase.cos(), math.sqrt(2) * phase.sin(), value], dim=-1)
