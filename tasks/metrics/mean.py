"""The mean of what was counted.

torchmetrics' own drops what is NaN, so that a batch that went wrong vanishes from the mean, and
keeps its sums in float32.
"""

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """Total / count, over everything that was seen; NaN where any of it is."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        # In float32 a sum over ten million tokens would lose the later ones.
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, total: Tensor | float, count: Tensor | int) -> None:
        """Add the sum of `count` values."""
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        """The mean; NaN before the first value."""
        return self.total / self.count
