"""PoinTr: a partial cloud of points becomes proxies, and a transformer says what is missing.

Source: Yu et al., "PoinTr", ICCV 2021, arXiv:2108.08839, and its code (yuxumin/PoinTr).
Departs from them: the queries, keys and values of an attention have biases, and its weights are
drawn as its mechanism has it; no weights are built for the graph branch of layers that have none;
farthest point sampling leaves out as padding what lies at the origin, not all within 0.03 of it.

Letters: B batch, N input points, P proxies, Q queries, K neighbours, E width, S fold points.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from attentions.base import Attention, Pattern
from tasks.backbones.points import SLOPE, Graph, Grouper
from tasks.base import AttentionSlots
from tasks.geometry import far_apart, gather, neighbours

GRAPH_NEIGHBOURS = 8
POSITION_DIM = 128


class PoinTr(nn.Module):
    """Points (B, N, 3) to a coarse cloud and a fine one, both with input points in them.

    The self-attentions of encoder and decoder and the decoder's cross-attention are slots.

    Args:
        slots: Give the attentions.
        embed_dim: E.
        num_heads: Of every attention.
        ffn_dim: Inner width of the feed-forward layers.
        num_encoder_layers: Their number.
        num_decoder_layers: Their number.
        num_graph_layers: How many layers of each stack, the first, have a graph branch.
        num_grouped: Points left by the grouper's first and second sampling; the second are P.
        num_neighbours: Of the grouper.
        group_dim: Channels of a proxy before it has the width E.
        num_queries: Q.
        fold: Each query becomes fold x fold points.
        fold_dim: Inner width of what folds.
        global_dim: Of what is pooled of all proxies, and again of all queries.
        hidden_dim: Inner width of what makes and reads the pooled.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        num_graph_layers: int,
        num_grouped: Sequence[int],
        num_neighbours: int,
        group_dim: int,
        num_queries: int,
        fold: int,
        fold_dim: int,
        global_dim: int,
        hidden_dim: int,
    ) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.grouper = Grouper(num_grouped, num_neighbours, group_dim)
        self.embed_place = pointwise(3, POSITION_DIM, embed_dim)
        self.embed_proxy = pointwise(group_dim, embed_dim, embed_dim)
        num_proxies = num_grouped[1]
        attentions = partial(slots.stack, embed_dim=embed_dim, num_heads=num_heads)
        self.encoder = nn.ModuleList(
            EncoderBlock(attention, ffn_dim, layer < num_graph_layers)
            for layer, attention in enumerate(
                attentions(Pattern.NONCAUSAL_SELF, num_encoder_layers, max_len=num_proxies)
            )
        )
        longest = max(num_proxies, num_queries)
        in_turn = zip(
            attentions(Pattern.NONCAUSAL_SELF, num_decoder_layers, max_len=num_queries),
            attentions(Pattern.NONCAUSAL_CROSS, num_decoder_layers, max_len=longest),
            strict=True,
        )
        self.decoder = nn.ModuleList(
            DecoderBlock(own, cross, ffn_dim, layer < num_graph_layers)
            for layer, (own, cross) in enumerate(in_turn)
        )
        self.pool_proxies = pointwise(embed_dim, hidden_dim, global_dim)
        self.coarse = nn.Sequential(
            nn.Linear(global_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 3 * num_queries)
        )
        self.query = nn.Sequential(
            nn.Linear(global_dim + 3, hidden_dim),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden_dim, hidden_dim),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden_dim, embed_dim),
        )
        self._draw_weights()
        self.pool_queries = pointwise(embed_dim, hidden_dim, global_dim)
        self.reduce = nn.Linear(embed_dim + global_dim + 3, embed_dim)
        self.folding = Fold(embed_dim, fold_dim, fold)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Map points (B, N, 3) to clouds (B, Q + min(Q, N), 3) and (B, Q S + N, 3).

        The first has the queries' places and sampled input points, the second what the queries
        unfold to and all input points.
        """
        num_sampled = min(self.num_queries, points.shape[1])
        order = far_apart(points, max(num_sampled, *self.grouper.num_points))
        queries, places = self._transform(points, order)
        unfolded = self._unfold(queries, places)
        sampled = gather(points, order[:, :num_sampled])
        return torch.cat([places, sampled], dim=1), torch.cat([unfolded, points], dim=1)

    def _transform(self, points: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, E) that have read the proxies, and their places (B, Q, 3)."""
        where, x = self.grouper(points, order)
        place, x = self.embed_place(where), self.embed_proxy(x)
        near = self._near(where, where)
        for block in self.encoder:
            x = block(x + place, near)
        pooled = self.pool_proxies(x).amax(dim=1)
        places = self.coarse(pooled).unflatten(-1, (self.num_queries, 3))
        pooled = pooled[:, None].expand(-1, self.num_queries, -1)
        queries = self.query(torch.cat([pooled, places], dim=-1))
        near, near_proxies = self._near(places, places), self._near(places, where)
        for block in self.decoder:
            queries = block(queries, x, near, near_proxies)
        return queries, places

    def _near(self, points: Tensor, others: Tensor) -> Tensor:
        """Neighbours for the graph branch; all, where there are not so many."""
        return neighbours(points, others, min(GRAPH_NEIGHBOURS, others.shape[1]))

    def _unfold(self, queries: Tensor, places: Tensor) -> Tensor:
        """The points (B, Q S, 3) that queries (B, Q, E) at places (B, Q, 3) become."""
        pooled = self.pool_queries(queries).amax(dim=1, keepdim=True)
        pooled = pooled.expand(-1, self.num_queries, -1)
        x = self.reduce(torch.cat([pooled, queries, places], dim=-1))
        return (self.folding(x) + places[:, :, None]).flatten(1, 2)

    def _draw_weights(self) -> None:
        """As the reference code has it for what it makes of 1x1 convolutions, and the other."""
        convolutions = (self.embed_place, self.embed_proxy, self.pool_proxies, self.query)
        for layer in (layer for part in convolutions for layer in part.modules()):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
        blocks = cast(list[EncoderBlock | DecoderBlock], [*self.encoder, *self.decoder])
        for part in (self.coarse, *(part for block in blocks for part in block.own_parts())):
            for layer in part.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.trunc_normal_(layer.weight, std=0.02)
                    nn.init.zeros_(layer.bias)


class BatchNorm(nn.BatchNorm1d):
    """Over all points of all clouds, (B, N, C)."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        return super().forward(input.flatten(0, 1)).view_as(input)


def pointwise(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Two layers on each point alone (1x1 convolutions in the reference code)."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim),
        BatchNorm(hidden_dim),
        nn.LeakyReLU(SLOPE),
        nn.Linear(hidden_dim, out_dim),
    )


class FeedForward(nn.Sequential):
    """GELU between two layers on each position."""

    def __init__(self, embed_dim: int, ffn_dim: int) -> None:
        super().__init__(nn.Linear(embed_dim, ffn_dim), nn.GELU(), nn.Linear(ffn_dim, embed_dim))


class EncoderBlock(nn.Module):
    """Self-attention, with the graph branch where there is one, and feed-forward."""

    def __init__(self, attention: Attention, ffn_dim: int, has_graph: bool) -> None:
        super().__init__()
        embed_dim = attention.embed_dim
        self.attention = attention
        self.graph = Graph(embed_dim) if has_graph else None
        self.ffn = FeedForward(embed_dim, ffn_dim)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor, near: Tensor) -> Tensor:
        """Map (B, P, E), with who is near, (B, P, K), to (B, P, E)."""
        normed = self.norm1(x)
        attended = self.attention(normed)
        if self.graph is not None:
            attended = self.graph(attended, normed, normed, near)
        x = x + attended
        return x + self.ffn(self.norm2(x))

    def own_parts(self) -> list[nn.Module]:
        """All but the attention, whose weights are its own affair."""
        return [self.ffn] if self.graph is None else [self.ffn, self.graph]


class DecoderBlock(nn.Module):
    """Self-attention and cross-attention, with their graph branches, and feed-forward."""

    def __init__(
        self,
        self_attention: Attention,
        cross_attention: Attention,
        ffn_dim: int,
        has_graph: bool,
    ) -> None:
        super().__init__()
        embed_dim = self_attention.embed_dim
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.graph = Graph(embed_dim) if has_graph else None
        self.cross_graph = Graph(embed_dim) if has_graph else None
        self.ffn = FeedForward(embed_dim, ffn_dim)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm_query = nn.LayerNorm(embed_dim)
        self.norm_context = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor, context: Tensor, near: Tensor, near_context: Tensor) -> Tensor:
        """Map x (B, Q, E) and context (B, P, E), with who is near each query, to (B, Q, E)."""
        normed = self.norm1(x)
        attended = self.self_attention(normed)
        if self.graph is not None:
            attended = self.graph(attended, normed, normed, near)
        x = x + attended
        normed, context = self.norm_query(x), self.norm_context(context)
        attended = self.cross_attention(normed, context)
        if self.cross_graph is not None:
            attended = self.cross_graph(attended, normed, context, near_context)
        x = x + attended
        return x + self.ffn(self.norm2(x))

    def own_parts(self) -> list[nn.Module]:
        """All but the attentions, whose weights are their own affair."""
        graphs = [graph for graph in (self.graph, self.cross_graph) if graph is not None]
        return [self.ffn, *graphs]


class Fold(nn.Module):
    """FoldingNet's head (arXiv:1712.07262): a square of points, bent twice, for each query.

    Args:
        embed_dim: E.
        hidden_dim: Inner width of the first half; the second has half of it.
        steps: Points along a side of the square.
    """

    square: Tensor

    def __init__(self, embed_dim: int, hidden_dim: int, steps: int) -> None:
        super().__init__()
        side = torch.linspace(-1.0, 1.0, steps)
        self.register_buffer("square", torch.cartesian_prod(side, side).flip(1), persistent=False)
        self.first = self._bend(embed_dim + 2, hidden_dim)
        self.second = self._bend(embed_dim + 3, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Q, E) to points around each query, (B, Q, S, 3)."""
        size = *x.shape[:2], len(self.square)
        x = x[:, :, None].expand(*size, -1).flatten(1, 2)  # (B, Q S, E)
        square = self.square.to(x.dtype).repeat(size[1], 1).expand(size[0], -1, -1)
        bent = self.first(torch.cat([square, x], dim=-1))
        return self.second(torch.cat([bent, x], dim=-1)).unflatten(1, size[1:])

    @staticmethod
    def _bend(in_dim: int, hidden_dim: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            BatchNorm(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim // 2),
            BatchNorm(hidden_dim // 2),
            nn.ReLU(),
            nn.Linear(hidden_dim // 2, 3),
        )
