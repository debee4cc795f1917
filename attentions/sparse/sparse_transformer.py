"""The two patterns of the Sparse Transformer: strided, and fixed summary columns.

Source: Child et al., "Generating Long Sequences with Sparse Transformers", 2019, arXiv:1904.10509.
Each head attends to the union of both of the paper's index sets, as in Tay et al., "Long Range
Arena", 2021, arXiv:2011.04006; the paper also gives the sets to alternate layers or heads, and
other summary columns to other heads. Its sets are causal. The noncausal ones, ours, are the same on
both sides of the query.
Departs from LRA's code (cd31e5c), which leaves an encoder's upper triangle empty, and whose fixed
pattern counts the first column of each block as a summary beside the last c.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions import masks
from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.chunks import in_chunks
from attentions.functional.flex import flex_masked_attention
from attentions.functional.gathered_blocks import gathered_attention
from attentions.functional.growing import append
from attentions.functional.masked import masked_attention
from attentions.functional.precision import full_precision, in_full

_UNALIGNED = "the index sets compare places in one sequence"


class _SparseTransformer(MultiHeadAttention):
    """What both patterns share.

    Args:
        stride: The l of the paper, about the square root of the length.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = {Pattern.NONCAUSAL_CROSS: _UNALIGNED, Pattern.CAUSAL_CROSS: _UNALIGNED}
    backends: ClassVar = {"flex": patterns}
    drops_weights = True
    takes_rotary = True

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, stride: int, **common: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if stride < 1:
            self._fail(f"stride must be positive, got {stride}")
        self.stride = stride


class FixedSparseAttention(_SparseTransformer):
    """Query i attends to its own block of l, and to the last c positions of every other block.

    Causal: to those up to i.

    Args:
        stride: Positions per block, l.
        num_summary: Summary columns per block, c.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, num_summary: int, **common: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if not 1 <= num_summary <= self.stride:
            self._fail(f"num_summary must be from 1 to stride = {self.stride}, got {num_summary}")
        self.num_summary = num_summary

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`."""
        is_causal = self.pattern is Pattern.CAUSAL_SELF
        if self.backend == "flex":
            sees = masks.either(
                masks.same_block(self.stride), masks.last_of_blocks(self.stride, self.num_summary)
            )
            return flex_masked_attention(
                q, k, v, sees, is_causal=is_causal, key_padding_mask=key_padding_mask
            )
        num_blocks = -(-q.shape[2] // self.stride)
        columns = torch.arange(self.stride - self.num_summary, self.stride, device=q.device)
        first = torch.arange(num_blocks, device=q.device) * self.stride
        summary = (first[:, None] + columns).flatten()  # the last of these may not be there
        # All queries share the summaries. A group of blocks, a fourth as long as the summaries are
        # many, copies four of these per position and masks a fifth of its scores.
        group_blocks = -(-len(summary) // (4 * self.stride))
        size = group_blocks * self.stride
        group = torch.arange(-(-num_blocks // group_blocks) * size, device=q.device).view(-1, size)
        keys = torch.cat([group, summary.expand(len(group), -1)], dim=-1)  # (T, W)
        query_block, key_block = (x.div(self.stride, rounding_mode="floor") for x in (group, keys))
        same_block = query_block[..., None] == key_block[:, None]
        is_summary = torch.arange(keys.shape[-1], device=q.device) >= size
        allowed = same_block != is_summary
        if is_causal:
            allowed = allowed & (keys[:, None] <= group[..., None])
        return gathered_attention(
            q,
            k,
            v,
            keys[None],
            allowed[None],
            key_padding_mask=key_padding_mask,
            dropout=self.dropout if self.training else 0.0,
        )

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep the last block, position p in slot p mod l, and the summaries of all."""
        end = position + k.shape[-2]
        first = max(position, (end - 1) // self.stride * self.stride)
        slots = torch.arange(first, end, device=k.device) % self.stride
        new = torch.arange(position, end, device=k.device)
        new = new[new % self.stride >= self.stride - self.num_summary] - position
        kept = {}
        for name, x in (("k", k), ("v", v)):
            block = memory.get(name)
            if block is None:
                block = x.new_zeros(*x.shape[:2], self.stride, x.shape[-1])
            kept[name] = block.index_copy_(2, slots, x[:, :, first - position :])
            summaries = {name: memory[f"summary_{name}"]} if memory else {}
            count = self._num_summaries(position)
            kept[f"summary_{name}"] = append(summaries, count, **{name: x[:, :, new]})[name]
        return kept

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the block so far and the summaries of the blocks before."""
        filled = position % self.stride + 1
        count = self._num_summaries(position - filled + 1)
        k, v = (
            torch.cat([memory[f"summary_{name}"][:, :, :count], memory[name][:, :, :filled]], dim=2)
            for name in ("k", "v")
        )
        return masked_attention(q, k, v)

    def memory_elements(self, length: int) -> int:
        """One block of keys and values, and the summaries so far: 2 (l + c N / l) E."""
        return self.num_kv(self.stride + self._num_summaries(length))

    def _num_summaries(self, position: int) -> int:
        """How many summary columns stand before `position`."""
        blocks, rest = divmod(position, self.stride)
        return blocks * self.num_summary + max(0, rest - self.stride + self.num_summary)


class StridedSparseAttention(_SparseTransformer):
    """Query i attends to the keys j with |i - j| < l, and to those where l divides i - j.

    Causal: to those up to i. One softmax, over scores that are computed in two layouts: of blocks
    of l neighbours against themselves and the blocks beside them, and of the columns of a sequence
    that is written in lines of l.

    Args:
        stride: The window and the distance of the columns, l.
    """

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`."""
        if self.backend == "flex":
            sees = masks.either(
                masks.window(self.stride - 1, self.stride - 1), masks.column(self.stride)
            )
            is_causal = self.pattern is Pattern.CAUSAL_SELF
            return flex_masked_attention(
                q, k, v, sees, is_causal=is_causal, key_padding_mask=key_padding_mask
            )
        with full_precision(q):  # scores stand in memory
            out = self._in_lines(in_full(q), in_full(k), in_full(v), key_padding_mask)
        return out.to(q.dtype)

    def _in_lines(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
        length = q.shape[2]
        size = min(self.stride, length)
        both = self.pattern is Pattern.NONCAUSAL_SELF
        seen = ~padding if padding is not None else q.new_ones(1, length) > 0
        q, k, v = (in_chunks(x, size) for x in (q * self.head_dim**-0.5, k, v))  # (B, H, T, l, D)
        seen = in_chunks(seen[:, None, :, None], size)  # (1 or B, 1, T, l, 1)
        near_k, near_v, near_seen = (_with_neighbours(x, both) for x in (k, v, seen))
        column_q, column_k, column_v, column_seen = (x.transpose(2, 3) for x in (q, k, v, seen))

        gap = torch.arange(near_k.shape[3], device=q.device) - size
        gap = gap - torch.arange(size, device=q.device)[:, None]  # of key and query, (l, 2 or 3 l)
        line = torch.arange(q.shape[2], device=q.device)
        gap_of_lines = (line - line[:, None])[:, None]  # (T, 1, T); 0 is in the window
        in_window = (gap > -size) & (gap < size if both else gap <= 0)
        in_column = (gap_of_lines != 0) if both else (gap_of_lines < 0)
        near = in_window & near_seen.mT
        columns = in_column & column_seen.squeeze(-1)[:, :, None]
        allowed = torch.cat([near, columns.expand(-1, -1, -1, size, -1)], dim=-1)

        scores = [q @ near_k.mT, (column_q @ column_k.mT).transpose(2, 3)]  # (B, H, T, l, ...)
        scores = torch.cat(scores, dim=-1).masked_fill_(~allowed, torch.finfo(q.dtype).min)
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        near, columns = weights.tensor_split([near_k.shape[3]], dim=-1)
        out = near @ near_v + (columns.transpose(2, 3) @ column_v).transpose(2, 3)
        out = out.masked_fill(~allowed.any(dim=-1, keepdim=True), 0.0)
        return out.flatten(2, 3)[:, :, :length]

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep every key and value: each stands in the column of later queries."""
        return append(memory, position, k=k, v=v)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the window and the column."""
        start = max(0, position - self.stride + 1)
        window, column = (
            slice(start, position + 1),
            slice(position % self.stride, start, self.stride),
        )
        k, v = (
            torch.cat([memory[name][:, :, window], memory[name][:, :, column]], dim=2)
            for name in ("k", "v")
        )
        return masked_attention(q, k, v)

    def memory_elements(self, length: int) -> int:
        """All keys and values: 2 N E."""
        return self.num_kv(length)


def _with_neighbours(x: Tensor, both: bool) -> Tensor:
    """Each block of x (..., T, l, D) behind the one before it, and before the one after it."""
    blocks = [F.pad(x, (0, 0, 0, 0, 1, -1)), x]
    if both:
        blocks.append(F.pad(x, (0, 0, 0, 0, -1, 1)))
    return torch.cat(blocks, dim=-2)
