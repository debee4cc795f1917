"""Reformer: each query attends to the keys of its hash bucket, queries and keys being the same.

Source: Kitaev et al., "Reformer: The Efficient Transformer", ICLR 2020, arXiv:2001.04451.
Departs from it: in the causal pattern a query sees the last `chunk_size` members of its bucket
instead of its chunk and the one before, since the borders of chunks move with later positions; and
its own position is left out by a mask instead of a penalty of 1e5. As in the authors' code, the
scores are not divided by sqrt D (the key has length one), and a hash into many buckets is a pair of
hashes into few, so that time stays near to linear.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.growing import append
from attentions.functional.masked import masked_attention
from attentions.functional.sorted_chunks import SortedChunks, rows_at, seen_by_last

_SHARED = "queries and keys are the same vectors"
_LAST_RESORT = -1e30  # a score that counts only where there is no other


class ReformerAttention(MultiHeadAttention):
    """softmax(q_i . k_j) over the keys k_j = q_j / |q_j| that share a bucket with the query.

    A bucket is the largest of [x R, -x R], R random, or a pair of such where R would have more
    columns than a chunk has positions. Sorted by bucket, positions are cut in chunks; a query sees
    what of its bucket is in its chunk and in the one before, and itself only if nothing else.
    Several rounds, each with its R, see the union of what each sees.

    Args:
        chunk_size: Positions per chunk.
        num_rounds: How many times to hash.
        num_buckets: Even; None for 2 max_len / chunk_size, the paper's relation. More than
            2 chunk_size are rounded up to a product of two even factors, each near the root.
        seed: Draws every R, others in each layer.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = {Pattern.NONCAUSAL_CROSS: _SHARED, Pattern.CAUSAL_CROSS: _SHARED}
    drops_weights = True
    full_precision = True
    rotations: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        chunk_size: int,
        num_rounds: int,
        num_buckets: int | None = None,
        seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if chunk_size < 1 or num_rounds < 1:
            self._fail(
                f"chunk_size and num_rounds must be positive, got {chunk_size} and {num_rounds}"
            )
        if num_buckets is None:
            if self.max_len is None:
                self._fail("needs num_buckets or max_len, got neither")
            assert self.max_len is not None
            num_buckets = 2 * math.ceil(self.max_len / chunk_size)
        if num_buckets < 2 or num_buckets % 2:
            self._fail(f"num_buckets must be even and positive, got {num_buckets}")
        self.chunk_size = chunk_size
        self.num_rounds = num_rounds
        self.factors = [num_buckets]
        if num_buckets > 2 * chunk_size:
            first = 2 ** (int(math.log2(num_buckets)) // 2)  # as transformers chooses
            self.factors = [first, 2 * math.ceil(num_buckets / first / 2)]
        self.num_buckets = math.prod(self.factors)
        self.k_proj = self.q_proj
        generator = torch.Generator().manual_seed(seed + self.layer)
        shape = (num_heads, self.head_dim, num_rounds, sum(self.factors) // 2)
        self.register_buffer("rotations", torch.randn(shape, generator=generator))

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`; k is q."""
        buckets = self._hash(q)  # (B, H, R, N)
        if key_padding_mask is not None:
            buckets = buckets.masked_fill(key_padding_mask[:, None, None], self.num_buckets)
        is_causal = self.pattern is Pattern.CAUSAL_SELF
        chunks = SortedChunks(buckets, self.chunk_size, is_causal=is_causal)
        queries = rows_at(q * math.log2(math.e), chunks.positions[..., -chunks.size :])
        # One copy of each key and value per chunk that sees it: (B, H, R, T, 2 C, D).
        keys, values = (rows_at(x, chunks.positions) for x in (F.normalize(q, dim=-1), v))
        # In place: these tables, R times the length by 2 C, are most of the memory.
        scores = (queries @ keys.mT).add_(self._bias(chunks, q.dtype))
        top = scores.detach().amax(dim=-1, keepdim=True)
        # Powers of two: on a CPU, exp takes ten times as long where it underflows.
        weights = scores.sub_(top).exp2_()
        total = weights.sum(dim=-1, keepdim=True)
        weights = F.dropout(weights, self.dropout, self.training)
        out = (weights @ values / total).flatten(2, 4)  # (B, H, R T C, D)
        weight = (total.log2() + top).flatten(3).gather(-1, chunks.rank)
        share = (weight * math.log(2.0)).softmax(dim=2)  # of each round
        padded_len = math.prod(scores.shape[3:5])
        rounds = torch.arange(self.num_rounds, device=q.device)[:, None]
        return (share[..., None] * rows_at(out, chunks.rank + rounds * padded_len)).sum(dim=2)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep every key, value and bucket."""
        buckets = self._hash(k).mT.int()  # (B, H, N, R)
        return append(memory, position, k=F.normalize(k, dim=-1), v=v, buckets=buckets)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the union of what one query sees in each round."""
        k, v, buckets = (memory[name][:, :, : position + 1] for name in ("k", "v", "buckets"))
        seen = seen_by_last(buckets.mT, self.chunk_size).any(dim=2)  # (B, H, N)
        seen[..., -1] = ~seen[..., :-1].any(dim=-1)
        return masked_attention(q * self.head_dim**0.5, k, v, seen[:, :, None])

    def memory_elements(self, length: int) -> int:
        """All keys and values, and a bucket for each head and round: 2 N E + N H R."""
        return self.num_kv(length) + length * self.num_heads * self.num_rounds

    @torch.no_grad()
    def _hash(self, x: Tensor) -> Tensor:
        """(B, H, N, D) to bucket numbers (B, H, R, N): the places where [x R, -x R] is largest."""
        halves = [factor // 2 for factor in self.factors]
        rounds = []
        for rotation in self.rotations.to(x.dtype).unbind(dim=2):
            bucket, stride = 0, 1
            for turned, half in zip((x @ rotation).split(halves, dim=-1), halves, strict=True):
                (high, most), (low, least) = turned.max(dim=-1), turned.min(dim=-1)
                bucket = bucket + stride * torch.where(high >= -low, most, least + half)
                stride *= 2 * half
            rounds.append(bucket)
        return torch.stack(rounds, dim=2)

    def _bias(self, chunks: SortedChunks, dtype: torch.dtype) -> Tensor:
        """What the masks and the rounds before add to the scores: (B, H, R, T, C, 2 C)."""
        allowed = chunks.allowed()
        # Over the rounds, each key is to count once. The logarithm of 0 would be slow on a CPU.
        times = chunks.times_allowed() if self.num_rounds > 1 else allowed
        bias = times.to(dtype).clamp_(min=1).log2_().neg_().masked_fill_(~allowed, -torch.inf)
        bias.diagonal(chunks.size, dim1=-2, dim2=-1).fill_(_LAST_RESORT)
        return bias
