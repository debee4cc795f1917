"""Means over groups of examples, in which each group counts alike."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class GroupMeans(Metric):
    """Of each score the mean over the groups that were seen of the mean within the group.

    NaN where any value is.

    Args:
        names: Of the scores.
        num_groups: How many groups there may be.
    """

    is_differentiable = False
    full_state_update = False
    totals: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str], num_groups: int) -> None:
        super().__init__()
        self.names = tuple(names)
        totals = torch.zeros(len(self.names), num_groups, dtype=torch.float64)
        self.add_state("totals", totals, dist_reduce_fx="sum")
        counts = torch.zeros(num_groups, dtype=torch.int64)
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, scores: Mapping[str, Tensor], group: Tensor) -> None:
        """Add examples.

        Args:
            scores: One value (B,) of each name.
            group: Numbers of their groups, int64 (B,).
        """
        values = torch.stack([scores[name].double() for name in self.names])
        self.totals.index_add_(1, group, values)
        self.counts.index_add_(0, group, torch.ones_like(group))

    def compute(self) -> dict[str, Tensor]:
        """Each score by its name; NaN before the first example."""
        seen = self.counts > 0
        means = (self.totals[:, seen] / self.counts[seen]).mean(dim=1)
        return dict(zip(self.names, means, strict=True))
