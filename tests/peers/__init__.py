"""Agreement with public implementations given the same weights, each skipped where not installed.

Where a peer is wrong or differs, a test pins the difference, so that a new version that changes it
is noticed. They come with the extra `peers`, which `dev` contains.
"""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def peer(module: str) -> Any:
    """Import a public implementation, or skip the test file; its own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module)


@torch.no_grad()
def copy(linear: nn.Linear, *, to: nn.Linear) -> None:
    """Copy a projection to one that has perhaps no bias, in which case ours is cleared."""
    to.weight.copy_(linear.weight)
    if to.bias is None:
        linear.bias.zero_()
    else:
        to.bias.copy_(linear.bias)


def split(x: Tensor, num_heads: int) -> Tensor:
    """(B, L, E) to (B, H, L, D)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
