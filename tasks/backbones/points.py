"""From a cloud of points to point proxies: what PoinTr's transformer reads.

Source: Wang et al., DGCNN, arXiv:1801.07829, as in PoinTr's code (Yu et al., ICCV 2021).

Letters: B batch, N points, P proxies, K neighbours, C channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.geometry import gather, neighbours

SLOPE = 0.2
"""Of every leaky ReLU."""
NUM_GROUPS = 4
"""Of every GroupNorm."""


class EdgeConv(nn.Module):
    """What a point sees in its neighbours: the greatest of a map of (neighbour - own, own).

    Args:
        in_dim: Channels of a point.
        out_dim: Channels of what is seen.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.edge = nn.Linear(2 * in_dim, out_dim, bias=False)
        self.norm = nn.GroupNorm(NUM_GROUPS, out_dim)

    def forward(self, own: Tensor, others: Tensor, index: Tensor) -> Tensor:
        """Map own (B, N, C), others (B, M, C) and who is near, (B, N, K), to (B, N, out_dim)."""
        edges = near_and_own(own, others, index, self.edge)  # (B, N, K, out_dim)
        return F.leaky_relu(self.norm(edges.movedim(-1, 1)), SLOPE).amax(dim=-1).mT


def near_and_own(own: Tensor, others: Tensor, index: Tensor, edge: nn.Linear) -> Tensor:
    """A linear map of (neighbour - own, own), (B, N, K, out), computed before the neighbours meet.

    Args:
        own: (B, N, C).
        others: (B, M, C).
        index: The neighbours of each point, (B, N, K).
        edge: From 2 C channels.
    """
    of_near, of_own = edge.weight.chunk(2, dim=1)
    here = F.linear(own, of_own - of_near, edge.bias)
    return gather(F.linear(others, of_near), index) + here[:, :, None]


class Grouper(nn.Module):
    """Points to fewer proxies, each with what is around it: four EdgeConvs and two samplings.

    Args:
        num_points: How many points are left by the first and by the second sampling.
        num_neighbours: K.
        out_dim: Channels of a proxy.

    Raises:
        ValueError: If a sampling leaves more than it had, or too few to be neighbours.
    """

    def __init__(self, num_points: Sequence[int], num_neighbours: int, out_dim: int) -> None:
        super().__init__()
        first, second = num_points
        if second > first:
            raise ValueError(f"num_grouped must fall from one to the other, got {[first, second]}")
        if num_neighbours > first:
            raise ValueError(
                f"num_neighbours must be at most {first}, the points that are left by the first "
                f"sampling, got {num_neighbours}"
            )
        if out_dim % 16:
            raise ValueError(f"group_dim must be a multiple of 16, got {out_dim}")
        self.num_points = tuple(num_points)
        self.num_neighbours = num_neighbours
        first, middle = out_dim // 4, out_dim // 2
        self.embed = nn.Linear(3, out_dim // 16)
        nn.init.xavier_normal_(self.embed.weight)
        self.layer1 = EdgeConv(out_dim // 16, first)
        self.layer2 = EdgeConv(first, middle)
        self.layer3 = EdgeConv(middle, middle)
        self.layer4 = EdgeConv(middle, out_dim)

    def forward(self, points: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """The places (B, P, 3) and features (B, P, out_dim) of the proxies.

        Args:
            points: (B, N, 3).
            order: The first points by farthest point sampling, (B, S). What a sampling of sampled
                points takes are the first of them.
        """
        first, second = (order[:, :count] for count in self.num_points)
        some, few = gather(points, first), gather(points, second)
        x = self.embed(points)
        x = self.layer1(x, x, self._near(points, points))
        x = self.layer2(gather(x, first), x, self._near(some, points))
        x = self.layer3(x, x, self._near(some, some))
        return few, self.layer4(x[:, : second.shape[1]], x, self._near(few, some))

    def _near(self, points: Tensor, others: Tensor) -> Tensor:
        return neighbours(points, others, self.num_neighbours)


class Graph(nn.Module):
    """A block's second view beside its attention, of the nearest in space, and their merging.

    Args:
        embed_dim: E.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.edge = nn.Linear(2 * embed_dim, embed_dim)
        self.merge = nn.Linear(2 * embed_dim, embed_dim)

    def forward(self, attended: Tensor, own: Tensor, others: Tensor, index: Tensor) -> Tensor:
        """Map what attention gave, (B, N, E), and the neighbours (B, N, K) to (B, N, E)."""
        seen = F.leaky_relu(near_and_own(own, others, index, self.edge), SLOPE).amax(dim=2)
        return self.merge(torch.cat([attended, seen], dim=-1))
