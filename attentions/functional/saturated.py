"""Casts that end at the greatest number of a dtype, and not at infinity."""

import torch
from torch import Tensor


def saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in another dtype, what is beyond its range at the end of it; without gradient there.

    For products of several streams of the input, which leave float16's 65,504 soon, and whose
    infinities a later matrix product would make NaN.
    """
    if dtype == torch.float16:
        limit = torch.finfo(dtype).max
        x = x.clamp(min=-limit, max=limit)
    return x.to(dtype)
