"""The mean of what was counted.

torchmetrics' own drops what is NaN, so that a batch that went wrong vanishes from the mean, and
keeps its sums in float32.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
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


class Means(nn.ModuleDict):
    """A `Mean` for each of the scores that a task takes together.

    Args:
        names: Of the scores.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__({name: Mean() for name in names})

    def __getitem__(self, key: str) -> Mean:
        return cast(Mean, super().__getitem__(key))

    def reset(self) -> None:
        """Forget all that was counted."""
        for name in self:
            self[name].reset()

    def measured(self, directions: Mapping[str, str]) -> list[dict[str, Any]]:
        """The means over the test rows, as `tasks.base.Task.measure` gives them.

        Args:
            directions: Which way each score is better.
        """
        return [
            {
                "metric": name,
                "value": float(self[name].compute()),
                "direction": directions[name],
                "split": "test",
            }
            for name in self
        ]
