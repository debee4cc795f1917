"""Computing in float32 at least, whatever the inputs and autocast."""

import torch
from torch import Tensor


def in_full(x: Tensor) -> Tensor:
    """x in float32, or in what it has if that is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which autocast on the device of x leaves every operation as it is written."""
    return torch.autocast(x.device.type, enabled=False)
