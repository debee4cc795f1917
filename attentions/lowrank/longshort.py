"""Long-short attention (Transformer-LS): a window, and beside it a summary of everything.

Source: Zhu et al., "Long-Short Transformer: Efficient Transformers for Language and Vision",
NeurIPS 2021, arXiv:2107.02192, and its authors' code: the summary is of normed keys and values in
the noncausal pattern, of plain ones in the causal; the queries of a chunk see all chunks before it.
Departs from it: without the memory of earlier segments; no bias where the summary's weights come
from, for it cancels.

Shapes: B batch, H heads, N length, D head_dim, E embed_dim, r vectors per summary, C chunks, T
blocks of queries, b queries per block, S summary vectors in all.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.chunks import in_chunks, with_previous
from attentions.functional.distances import distance_sinusoids, skew
from attentions.functional.gathered_blocks import gathered_attention
from attentions.functional.growing import append
from attentions.functional.masked import masked_attention

_NOTHING = -1e30  # the logarithm of zero, but finite
_UNALIGNED = "the window is a place in the query's own sequence"


class LongShortAttention(MultiHeadAttention):
    """One softmax over the window's keys LN_short(K) and the summary's LN_long(P^T K), V alike.

    P is a softmax of x W_P over positions. Noncausal: over all; a block of `window` queries sees
    itself and half a window on either side. Causal: over each chunk of the past; a query sees the
    chunks before its own, and `window` keys up to its own; scores by distance are added to both:
    (q / sqrt D + u) . k_j + (q / sqrt D + w) . W_R r_{i-j} in the window, with sinusoids r, and
    q / sqrt D . (W_C r_d + b) for the summary vector with d others behind it.

    Args:
        window: Positions per block; causal: keys in the window.
        num_landmarks: Vectors r that sum up the sequence, in the noncausal pattern.
        chunk_size: Positions per chunk, in the causal pattern.
        chunk_rank: Vectors r that sum up a chunk, in the causal pattern.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = {Pattern.NONCAUSAL_CROSS: _UNALIGNED, Pattern.CAUSAL_CROSS: _UNALIGNED}
    drops_weights = True
    full_precision = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        window: int,
        num_landmarks: int,
        chunk_size: int,
        chunk_rank: int,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        for name, value in (
            ("window", window),
            ("num_landmarks", num_landmarks),
            ("chunk_size", chunk_size),
            ("chunk_rank", chunk_rank),
        ):
            if value < 1:
                self._fail(f"{name} must be positive, got {value}")
        self.window = window
        self.chunk_size = chunk_size
        self.rank = chunk_rank if self.pattern is Pattern.CAUSAL_SELF else num_landmarks
        self.summary_proj = nn.Linear(embed_dim, num_heads * self.rank, bias=False)
        self.short_norm = nn.LayerNorm(embed_dim)
        self.long_norm = nn.LayerNorm(embed_dim)
        if self.pattern is Pattern.CAUSAL_SELF:
            if embed_dim % 2:
                self._fail(f"sines and cosines need an even embed_dim, got {embed_dim}")
            self.block_size = max(32, min(64, window // 2))
            self.num_before = -(-(window - 1) // self.block_size)  # blocks a window reaches back
            self.distance_proj = nn.Linear(embed_dim, embed_dim, bias=False)  # W_R
            self.chunk_distance_proj = nn.Linear(embed_dim, embed_dim)  # W_C and what becomes b
            self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))  # u
            self.distance_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))  # w

    def _keys_and_values(self, x: Tensor, position: int = 0) -> tuple[Tensor, Tensor]:
        """Keys with the logits of P as r columns more, and values."""
        k, v = super()._keys_and_values(x, position)
        logits = self.summary_proj(x).unflatten(-1, (-1, self.rank)).transpose(1, 2)
        return torch.cat([k, logits.to(k.dtype)], dim=-1), v

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`; k has the logits of P behind its columns."""
        k, logits = k.split([self.head_dim, self.rank], dim=-1)
        if self.pattern is Pattern.CAUSAL_SELF:
            return self._causal(q, k, v, logits, key_padding_mask)
        near_k, near_v = _normed(self.short_norm, k, v)
        whole = None if key_padding_mask is None else key_padding_mask[:, None]
        chunk = (x[:, :, None] for x in (near_k, near_v, logits))
        far_k, far_v = self._summary(*chunk, padding=whole)
        if key_padding_mask is not None:
            empty = key_padding_mask.all(dim=-1, keepdim=True).expand(-1, self.rank)
            key_padding_mask = torch.cat([empty, key_padding_mask], dim=1)
        keys, allowed = self._visible(q.shape[2], q.device)
        return gathered_attention(
            q,
            torch.cat([far_k, near_k], dim=2),
            torch.cat([far_v, near_v], dim=2),
            keys,
            allowed,
            key_padding_mask=key_padding_mask,
            dropout=self.dropout if self.training else 0.0,
        )

    def _visible(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """What each block of queries sees of the r summary vectors and of the keys behind them.

        Returns:
            Their places (1, T, W), -1 for none; and which query sees which, bool (1, T, b, W).
        """
        window, reach = self.window, max(1, self.window // 2)
        # Several blocks of a short window are one here: fewer copies, more masked scores.
        size = min(window * max(1, 32 // window), length)
        block = torch.arange(0, length, size, device=device)[:, None]
        own = (block + torch.arange(size, device=device))[..., None] // window * window  # (T, b, 1)
        near = block + torch.arange(-reach, size + reach, device=device)
        sees = (own - reach <= near[:, None]) & (near[:, None] < own + window + reach)
        places = torch.where((near >= 0) & (near < length), near + self.rank, -1)
        far = torch.arange(self.rank, device=device).expand(len(block), -1)
        keys = torch.cat([far, places], dim=-1)
        return keys[None], F.pad(sees, (self.rank, 0), value=True)[None]

    def _causal(
        self, q: Tensor, k: Tensor, v: Tensor, logits: Tensor, padding_mask: Tensor | None
    ) -> Tensor:
        """One softmax over the summaries of the chunks before and over the window."""
        length = q.shape[2]
        # A chunk up to the last position is nobody's past.
        shape = ((length - 1) // self.chunk_size, self.chunk_size)
        whole = shape[0] * shape[1]
        padding = None if padding_mask is None else padding_mask[:, :whole].unflatten(1, shape)
        chunks = (x[:, :, :whole].unflatten(2, shape) for x in (k, v, logits))
        far_k, far_v = self._summary(*chunks, padding=padding)
        near_k, near_v = _normed(self.short_norm, k, v)
        q = q * self.head_dim**-0.5
        far = in_chunks(self._far_scores(q, far_k, padding), self.block_size)
        near = self._near_scores(q, near_k, padding_mask)
        weights = torch.cat([far, near], dim=-1)
        del far, near  # each of these is as large as everything else
        weights = F.dropout(weights.softmax(dim=-1), self.dropout, self.training)
        of_far, of_near = weights.tensor_split([far_k.shape[2]], dim=-1)
        out = of_far.flatten(2, 3) @ far_v + (of_near @ self._in_reach(near_v)).flatten(2, 3)
        return out[:, :, :length]

    def _far_scores(self, q: Tensor, far_k: Tensor, padding: Tensor | None) -> Tensor:
        """The scores of queries / sqrt D (B, H, N, D) with the summary vectors: (B, H, N, S)."""
        # Chunk a of queries has vector c at distance a r - 1 - c; the columns go down to 0.
        chunks = in_chunks(q, self.chunk_size).transpose(2, 3)  # (B, H, positions, C, D)
        num_columns = chunks.shape[3] * self.rank
        placed = self._by_distance(chunks.flatten(2, 3), self.chunk_distance_proj, num_columns)
        placed = skew(placed.unflatten(2, chunks.shape[2:4]), start=num_columns, step=self.rank)
        scores = q @ far_k.mT + placed.transpose(2, 3).flatten(2, 3)[:, :, : q.shape[2]]
        own_chunk = torch.arange(q.shape[2], device=q.device)[:, None] // self.chunk_size
        hidden = torch.arange(far_k.shape[2], device=q.device) // self.rank >= own_chunk
        if padding is not None:
            empty = padding.all(dim=-1).repeat_interleave(self.rank, dim=1)
            hidden = hidden | empty[:, None, None]
        return scores.masked_fill_(hidden, _NOTHING)

    def _near_scores(self, q: Tensor, near_k: Tensor, padding_mask: Tensor | None) -> Tensor:
        """The scores of queries / sqrt D with the keys of their blocks and of those before.

        Returns:
            (B, H, T, b, keys), very low outside of each query's window.
        """
        size, window = self.block_size, self.window
        rows = in_chunks(q, size) + self.content_bias.to(q.dtype)[:, None]
        scores = rows @ self._in_reach(near_k).mT
        placed = self._by_distance(q + self.distance_bias.to(q.dtype), self.distance_proj, window)
        # The window of a block's first query begins here, that of each next one key later.
        first = self.num_before * size - window + 1
        placed = F.pad(in_chunks(placed, size), (first, size), value=_NOTHING)
        scores += skew(placed, start=0, step=1)
        unseen = q.new_zeros(1, 1, q.shape[2], 1)
        if padding_mask is not None:
            unseen = unseen.masked_fill(padding_mask[:, None, :, None], _NOTHING)
        scores += self._in_reach(unseen, fill=_NOTHING).mT
        return scores

    def _in_reach(self, x: Tensor, *, fill: float = 0.0) -> Tensor:
        """(..., N, W) to (..., T, keys, W): each block of positions behind those in its windows."""
        return with_previous(in_chunks(x, self.block_size), self.num_before, fill=fill)

    def _by_distance(self, q: Tensor, proj: nn.Linear, num_distances: int) -> Tensor:
        """The scores (B, H, M, distances) of q (B, H, M, D), the largest distance first."""
        waves = distance_sinusoids(num_distances - 1, 0, self.embed_dim, q)
        weight = proj.weight.to(q.dtype).unflatten(0, (self.num_heads, -1))  # (H, D, E)
        # One query is projected rather than all the distances.
        scores = q @ weight @ waves.mT if q.shape[2] == 1 else q @ (weight @ waves.mT)
        if proj.bias is not None:
            scores = scores + q @ proj.bias.to(q.dtype).view(self.num_heads, -1, 1)
        return scores

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep the summaries of whole chunks, and the last keys and values as they came.

        These are enough for the window and for the chunk that is not whole; position p in slot
        p mod their number.
        """
        end, room = position + k.shape[-2], max(self.window, self.chunk_size)
        new = {"k": k, "v": v}
        if not memory:
            memory = {name: x.new_zeros(*x.shape[:2], room, x.shape[-1]) for name, x in new.items()}
            memory |= {f"far_{name}": v.new_zeros(*v.shape[:2], 0, v.shape[-1]) for name in new}
        before, after = position // self.chunk_size, end // self.chunk_size
        kept = dict(memory)
        if after > before:
            begun = torch.arange(before * self.chunk_size, position, device=k.device) % room
            chunks = [torch.cat([memory[name][:, :, begun], x], dim=2) for name, x in new.items()]
            shape = (after - before, self.chunk_size)
            k, v = (x[:, :, : shape[0] * shape[1]].unflatten(2, shape) for x in chunks)
            k, logits = k.split([self.head_dim, self.rank], dim=-1)
            far_k, far_v = self._summary(k, v, logits)
            far = {"far_k": memory["far_k"], "far_v": memory["far_v"]}
            kept |= append(far, before * self.rank, far_k=far_k, far_v=far_v)
        first = max(position, end - room)
        slots = torch.arange(first, end, device=v.device) % room
        for name, x in new.items():
            kept[name] = memory[name].index_copy_(2, slots, x[:, :, first - position :])
        return kept

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Answer from the window and the summaries of the chunks before the query's."""
        start = max(0, position - self.window + 1)
        slots = torch.arange(start, position + 1, device=q.device) % memory["k"].shape[2]
        near_k, near_v = memory["k"][:, :, slots, : self.head_dim], memory["v"][:, :, slots]
        near_k, near_v = _normed(self.short_norm, near_k, near_v)
        num_far = position // self.chunk_size * self.rank
        far_k, far_v = (memory[name][:, :, :num_far] for name in ("far_k", "far_v"))
        k, v = torch.cat([far_k, near_k], dim=2), torch.cat([far_v, near_v], dim=2)
        scaled = q * self.head_dim**-0.5
        far = self._by_distance(scaled, self.chunk_distance_proj, num_far)
        scaled = scaled + self.distance_bias.to(q.dtype)
        near = self._by_distance(scaled, self.distance_proj, len(slots))
        near = near + self.content_bias.to(q.dtype) @ near_k.mT
        return masked_attention(q, k, v, bias=torch.cat([far, near], dim=-1))

    def memory_elements(self, length: int) -> int:
        """The last w keys, logits and values, and R pairs a chunk: w (2 E + H R) + 2 R N / c E."""
        room, num_chunks = max(self.window, self.chunk_size), length // self.chunk_size
        recent = room * (2 * self.embed_dim + self.num_heads * self.rank)
        return recent + self.num_kv(num_chunks * self.rank)

    def _summary(
        self, k: Tensor, v: Tensor, logits: Tensor, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The r weighted means of each chunk of keys and values, normed: (B, H, C r, D) twice.

        Args:
            k: (B, H, C, positions, D).
            v: (B, H, C, positions, D).
            logits: (B, H, C, positions, r).
            padding: Bool (B, C, positions), True for padding; None for no padding.
        """
        if padding is not None:
            logits = logits.masked_fill(padding[:, None, ..., None], _NOTHING)
        weights = logits.softmax(dim=-2).mT
        return _normed(self.long_norm, *((weights @ x).flatten(2, 3) for x in (k, v)))


def _normed(norm: nn.LayerNorm, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, H, L, D), each normed over all heads together."""
    weight, bias = norm.weight.to(k.dtype), norm.bias.to(k.dtype)
    k, v = (
        F.layer_norm(x.transpose(1, 2).flatten(2), norm.normalized_shape, weight, bias, norm.eps)
        .unflatten(2, (-1, x.shape[-1]))
        .transpose(1, 2)
        for x in (k, v)
    )
    return k, v
