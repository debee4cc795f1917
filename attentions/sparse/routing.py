"""Routing attention: softmax among the queries and keys nearest to a centroid of online k-means.

Source: Roy et al., "Efficient Content-Based Sparse Attention with Routing Transformers", TACL 2021,
arXiv:2003.05997.
Departs from it: every head routes (there, part of the heads have a local window); the centroids
follow the assigned vectors by a moving average alone, without a loss; and in the causal pattern
each position belongs to the nearest centroid and sees the last members before it, since the
published choice of the nearest `window` positions of all lets later ones push out earlier ones.
The authors' code (in google-research) has that loss, as the commitment of vectors to centroids, and
does not divide the products of queries and keys by sqrt D, of which `scale` makes a choice. It
assigns by the largest product with a centroid, here by the least distance: the same for centroids
of one length, which a moving average does not keep.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.masked import masked_attention
from attentions.functional.sorted_chunks import SortedChunks, rows_at, seen_by_last


class RoutingAttention(MultiHeadAttention):
    """softmax(scale Q_c K_c^T) V_c for each centroid c, with normalised queries and keys.

    Q_c and K_c are the `window` queries and keys nearest to c. A query in several clusters gets the
    mean of its outputs, one in none gets zero. Causal: the queries are the keys; each is in one
    cluster, and sees itself and the `window` members before it.

    Args:
        num_clusters: Number of centroids per head; None for sqrt(max_len), the paper's choice.
        window: Members of a cluster that are taken; None for max_len / num_clusters.
        decay: Of the centroids in each training pass, towards the mean of what is assigned to them.
        scale: Of the products, which are up to D in size; None for 1 / sqrt D.
        seed: Draws the first centroids, others in each layer.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_CROSS})
    refuses: ClassVar = {
        Pattern.CAUSAL_CROSS: "which queries a cluster takes is decided by comparing all of them"
    }
    drops_weights = True
    full_precision = True
    centroids: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        num_clusters: int | None = None,
        window: int | None = None,
        decay: float = 0.999,
        scale: float | None = None,
        seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if self.max_len is None and (num_clusters is None or window is None):
            self._fail("needs num_clusters and window, or max_len, got none")
        max_len = self.max_len or 1
        if num_clusters is None:
            num_clusters = round(math.sqrt(max_len))
        if num_clusters < 1:
            self._fail(f"num_clusters must be positive, got {num_clusters}")
        self.window = math.ceil(max_len / num_clusters) if window is None else window
        if self.window < 1:
            self._fail(f"window must be positive, got {window}")
        if not 0.0 <= decay <= 1.0:
            self._fail(f"decay must be in [0, 1], got {decay}")
        if scale is not None and not scale > 0:
            self._fail(f"scale must be positive or null, got {scale}")
        self.decay = decay
        self.scale = scale
        if self.pattern is Pattern.CAUSAL_SELF:
            self.k_proj = self.q_proj
        generator = torch.Generator().manual_seed(seed + self.layer)
        shape = (num_heads, num_clusters, self.head_dim)
        self.register_buffer("centroids", _normalised(torch.randn(shape, generator=generator)))

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`; causal, k is q."""
        q = _normalised(q)
        if self.pattern is Pattern.CAUSAL_SELF:
            k = q
            out = self._mix_causal(q, v, key_padding_mask)
        else:
            k = _normalised(k)
            out = self._mix_clusters(q, k, v, query_padding_mask, key_padding_mask)
        if self.training:
            self._update([(q, query_padding_mask), (k, key_padding_mask)])
        return out

    def _mix_clusters(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        query_padding_mask: Tensor | None,
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        queries = self._nearest(q, query_padding_mask)  # (B, H, C, w)
        keys = self._nearest(k, key_padding_mask)
        allowed = None
        if key_padding_mask is not None:
            # Fewer keys than the window: the rest that was taken is padding.
            padding = key_padding_mask[:, None, None].expand(*keys.shape[:3], -1)
            allowed = ~padding.gather(-1, keys).flatten(1, 2)[:, :, None]
        # Each cluster is a head of its own.
        out = masked_attention(
            self._scaled(rows_at(q, queries)).flatten(1, 2),
            rows_at(k, keys).flatten(1, 2),
            rows_at(v, keys).flatten(1, 2),
            allowed,
            dropout=self.dropout if self.training else 0.0,
        )
        batch_size, num_heads, query_len, _ = q.shape
        place = torch.arange(batch_size * num_heads, device=q.device) * query_len
        place = (place.view(batch_size, num_heads, 1, 1) + queries).flatten()
        sums = q.new_zeros(batch_size * num_heads * query_len, v.shape[-1])
        counts = sums[:, :1].index_add(
            0, place, torch.ones_like(sums[:1, :1]).expand(len(place), 1)
        )
        mean = sums.index_add(0, place, out.flatten(0, 2)) / counts.clamp(min=1.0)
        return mean.view(batch_size, num_heads, query_len, -1)

    def _mix_causal(self, q: Tensor, v: Tensor, padding_mask: Tensor | None) -> Tensor:
        clusters = self._assign(q)
        if padding_mask is not None:
            clusters = clusters.masked_fill(padding_mask[:, None], self.centroids.shape[1])
        chunks = SortedChunks(clusters, self.window, is_causal=True)
        pairs = rows_at(q, chunks.positions).flatten(1, 2)  # (B, H T, 2 w, D)
        out = masked_attention(
            self._scaled(pairs[:, :, -chunks.size :]),
            pairs,
            rows_at(v, chunks.positions).flatten(1, 2),
            chunks.allowed().flatten(1, 2),
            dropout=self.dropout if self.training else 0.0,
        )
        return rows_at(out.unflatten(1, (q.shape[1], -1)).flatten(2, 3), chunks.rank)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep every key, value and cluster, in buffers that double when they are full."""
        k = _normalised(k)
        new = {"k": k, "v": v, "clusters": self._assign(k).int()}
        if not memory:
            return new
        if position >= memory["k"].shape[2]:
            memory = {
                name: torch.cat([kept, torch.zeros_like(kept)], dim=2)
                for name, kept in memory.items()
            }
        for name, x in new.items():
            memory[name][:, :, position : position + 1] = x
        return dict(memory)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the last members of one query's cluster."""
        k, v, clusters = (memory[name][:, :, : position + 1] for name in ("k", "v", "clusters"))
        seen = seen_by_last(clusters, self.window)
        return masked_attention(self._scaled(_normalised(q)), k, v, seen[:, :, None])

    def memory_elements(self, length: int) -> int:
        """All keys and values, and a cluster for each head: 2 N E + N H."""
        return self.num_kv(length) + length * self.num_heads

    def _scaled(self, q: Tensor) -> Tensor:
        """Queries whose products, once divided by sqrt D, have the scale that was asked for."""
        return q if self.scale is None else q * (self.scale * math.sqrt(self.head_dim))

    @torch.no_grad()
    def _nearest(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """The `window` positions of x (B, H, N, D) nearest to each centroid: (B, H, C, w)."""
        # All of x have one length, so that the products order them as the distances do.
        nearness = self.centroids.to(x.dtype) @ x.mT
        if padding_mask is not None:
            nearness = nearness.masked_fill(padding_mask[:, None, None], -torch.inf)
        return nearness.topk(min(self.window, x.shape[2]), sorted=False).indices

    @torch.no_grad()
    def _assign(self, x: Tensor) -> Tensor:
        """The centroid nearest to each of x (B, H, N, D): (B, H, N)."""
        centroids = self.centroids.to(x.dtype)
        half_squares = centroids.square().sum(dim=-1)[:, None] / 2
        return (x @ centroids.mT - half_squares).argmax(dim=-1)

    @torch.no_grad()
    def _update(self, vectors: list[tuple[Tensor, Tensor | None]]) -> None:
        """Move the centroids towards the mean of the queries, and of the keys, assigned to each."""
        index = torch.arange(self.centroids.shape[1], device=self.centroids.device)
        means = torch.zeros_like(self.centroids)
        for x, padding_mask in vectors:
            assigned = self._assign(x)[..., None] == index  # (B, H, N, C)
            if padding_mask is not None:
                assigned = assigned & ~padding_mask[:, None, :, None]
            counts = assigned.sum(dim=(0, 2))[..., None]  # (H, C, 1)
            sums = (assigned.to(x.dtype).mT @ x).sum(dim=0)
            mean = torch.where(counts > 0, sums / counts.clamp(min=1), self.centroids)
            means += mean.to(means.dtype) / len(vectors)
        self.centroids.lerp_(means, 1.0 - self.decay)


def _normalised(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the last dimension: on a sphere of radius sqrt D."""
    return F.layer_norm(x, x.shape[-1:])
