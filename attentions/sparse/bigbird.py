"""BigBird: blocks of queries that see their neighbours, two global blocks and a few random ones.

Source: Zaheer et al., "Big Bird: Transformers for Longer Sequences", NeurIPS 2020,
arXiv:2007.14062, in its internal construction: the global tokens are blocks of the sequence.
Departs from the authors' code, as transformers has it: random blocks are drawn, by integers in a
buffer, from all that are not seen anyway (there from the first few alone, and in evaluation each is
block 0); the last block is the last one with anything but padding. The causal pattern is ours, for
the paper's decoder has full attention: random blocks of the past, a first block that all after it
see, and no last one.

Shapes: B batch, H heads, D head_dim, T blocks in the sequence, b positions per block, W blocks that
a block sees.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions import masks
from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.chunks import in_chunks, unpadded_length
from attentions.functional.flex import flex_masked_attention
from attentions.functional.growing import append
from attentions.functional.masked import masked_attention

_UNALIGNED = "neighbouring blocks are places in the query's own sequence"
_ROWS = 1024  # of drawn integers; block 1024 has those of block 0, modulo another number of blocks


class BigBirdAttention(MultiHeadAttention):
    """softmax(Q K^T / sqrt D) V over the blocks that the query's block sees.

    Noncausal: its own and both neighbours, the first, the last and `num_random` others; the first
    and the last block see all. Causal: its own up to the query, the one before, the first and
    `num_random` others before. Each head has other random blocks.

    Args:
        block_size: Positions per block; the last block may be shorter.
        num_random: Random blocks per block.
        seed: Draws them, others in each layer.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = {Pattern.NONCAUSAL_CROSS: _UNALIGNED, Pattern.CAUSAL_CROSS: _UNALIGNED}
    backends: ClassVar = {"flex": patterns}
    drops_weights = True
    takes_rotary = True
    draws: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        block_size: int,
        num_random: int,
        seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if block_size < 1:
            self._fail(f"block_size must be positive, got {block_size}")
        if num_random < 0:
            self._fail(f"num_random must be at least 0, got {num_random}")
        self.block_size = block_size
        generator = torch.Generator().manual_seed(seed + self.layer)
        # Large integers, of which any number of blocks takes the remainder.
        draws = torch.randint(2**62, (num_heads, _ROWS, num_random), generator=generator)
        self.register_buffer("draws", draws)

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
        length = q.shape[2]
        size = min(self.block_size, length)
        is_causal = self.pattern is Pattern.CAUSAL_SELF
        dropout = self.dropout if self.training else 0.0
        # Up to the last block with anything but padding: (1 or B,).
        num_blocks = (unpadded_length(q, key_padding_mask) + size - 1) // size
        if self.backend == "flex":
            sees = masks.blocks(self._table(-(-length // size), num_blocks), size)
            return flex_masked_attention(
                q, k, v, sees, is_causal=is_causal, key_padding_mask=key_padding_mask
            )
        q_blocks = in_chunks(q, size)  # (B, H, T, b, D)
        row = torch.arange(q_blocks.shape[2], device=q.device)
        blocks = self._visible(row, num_blocks)  # (1 or B, H, T, W)
        keys = _positions(blocks, size)  # (1 or B, H, T, W b)
        # What is seen of a block, and where it stands, is the same in all heads.
        allowed = keys[:, :1, :, None] < length
        if is_causal:
            allowed = keys[:, :1, :, None] <= _positions(row[:, None], size)[..., None]
        if key_padding_mask is not None:
            padding = F.pad(key_padding_mask, (0, len(row) * size + size - length), value=True)
            sample = torch.arange(len(q), device=q.device)[:, None, None, None]
            allowed = allowed & ~padding[sample, keys][:, :, :, None]
        out = masked_attention(
            q_blocks.flatten(0, 1),
            _copied(k, blocks, size),
            _copied(v, blocks, size),
            allowed.flatten(0, 1),  # (1 or B H, T, 1 or b, W b)
            dropout=dropout,
        ).view_as(q_blocks)
        if not is_causal:
            # The first and the last block see everything.
            visible = None if key_padding_mask is None else ~key_padding_mask[:, None, None]
            last = num_blocks.expand(len(q)) - 1
            ends = q_blocks[:, :, 0], q_blocks[torch.arange(len(q), device=q.device), :, last]
            ends = masked_attention(torch.cat(ends, dim=2), k, v, visible, dropout=dropout)
            of_first, of_last = ends[:, :, None].split(size, dim=3)  # (B, H, 1, b, D)
            is_last = (row == last[:, None])[:, None, :, None, None]
            out = torch.cat([of_first, torch.where(is_last, of_last, out)[:, :, 1:]], dim=2)
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
        """Keep every key and value: some later block may draw any of them."""
        return append(memory, position, k=k, v=v)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the blocks that are seen from `position`."""
        row = torch.tensor([position // self.block_size], device=q.device)
        keys = _positions(self._visible(row, row + 1), self.block_size)  # (1, H, 1, W b)
        rows = keys[:, :, 0, :, None].clamp(max=position).expand(len(q), -1, -1, q.shape[-1])
        k, v = memory["k"].gather(2, rows), memory["v"].gather(2, rows)
        return masked_attention(q, k, v, keys <= position)

    def memory_elements(self, length: int) -> int:
        """All keys and values: 2 N E."""
        return self.num_kv(length)

    def _table(self, length: int, num_blocks: Tensor) -> Tensor:
        """Which of `length` blocks see which: bool (1 or B, H, length, length)."""
        row = torch.arange(length, device=num_blocks.device)
        seen = self._visible(row, num_blocks).clamp(max=length)
        table = seen.new_zeros(*seen.shape[:-1], length + 1, dtype=torch.bool)
        table = table.scatter(-1, seen, True)[..., :length]
        if self.pattern is Pattern.CAUSAL_SELF:
            return table
        is_end = (row == 0) | (row == num_blocks[:, None] - 1)  # these see all
        return table | is_end[:, None, :, None]

    def _visible(self, row: Tensor, num_blocks: Tensor) -> Tensor:
        """The blocks that blocks see, each once, in ascending order.

        Args:
            row: int64 (T,), the blocks that see.
            num_blocks: int64 (1 or B,), how many blocks there are.

        Returns:
            int64 (1 or B, H, T, W); where there are fewer than W, the next after them all.
        """
        row = row[:, None]  # (T, 1)
        if self.pattern is Pattern.CAUSAL_SELF:
            end = row + 1
            near = torch.cat([0 * row, row - 1, row], dim=-1)[None, None]
        else:
            end = num_blocks[:, None, None, None]
            near = torch.broadcast_tensors(0 * end, end - 1, row - 1, row, row + 1)
            near = torch.cat(near, dim=-1)
        seen, _ = near.sort(dim=-1)
        again = F.pad(seen[..., 1:] == seen[..., :-1], (1, 0))
        seen = torch.where(again | (seen < 0) | (seen >= end), end, seen)
        seen = seen.expand(-1, self.num_heads, -1, -1)
        for draw in self.draws[:, row[:, 0] % _ROWS].split(1, dim=-1):  # (H, T, 1)
            seen, _ = seen.sort(dim=-1)
            num_free = end - (seen < end).sum(dim=-1, keepdim=True)
            block = draw % num_free.clamp(min=1)
            for other in seen.split(1, dim=-1):
                block = block + (block >= other)  # counts the free ones alone
            seen = torch.cat([seen, torch.where(num_free > 0, block, end)], dim=-1)
        return seen.sort(dim=-1).values


def _positions(blocks: Tensor, size: int) -> Tensor:
    """The positions in blocks (..., W), side by side: (..., W b)."""
    inside = torch.arange(size, device=blocks.device)
    return (blocks[..., None] * size + inside).flatten(-2)


def _copied(x: Tensor, blocks: Tensor, size: int) -> Tensor:
    """Copy blocks (1 or B, H, T, W) of x (B, H, L, D), side by side: (B H, T, W b, D)."""
    x = in_chunks(x, size)
    batch_size, num_heads, num_blocks = x.shape[:3]
    first = torch.arange(batch_size * num_heads, device=x.device) * num_blocks
    rows = blocks.clamp(max=num_blocks - 1) + first.view(batch_size, num_heads, 1, 1)
    # An embedding: its backward adds whole rows, without the atomics of index_select's.
    copies = F.embedding(rows.flatten(0, 1), x.flatten(0, 2).flatten(1))  # (B H, T, W, b D)
    return copies.unflatten(-1, x.shape[-2:]).flatten(2, 3)
