"""Block-local attention: softmax over the keys of the query's own block.

Source: "Local Attention" of Tay et al., "Long Range Arena", ICLR 2021, arXiv:2011.04006. It is no
sliding window (`local_window`): a query at the border of its block sees one side only.
Departs from LRA's code (cd31e5c): its reshape puts positions into a block that are equal modulo the
number of blocks, under padding masks of contiguous ones; here blocks are contiguous. The last block
is as long as it is; there it is filled up, and one more block appended where it is full.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from attentions import masks
from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.chunks import in_chunks
from attentions.functional.flex import flex_masked_attention
from attentions.functional.masked import masked_attention

_UNALIGNED = "nothing says which block of the context belongs to which query"


class BlockLocalAttention(MultiHeadAttention):
    """softmax(Q K^T / sqrt D) V inside blocks that do not overlap.

    Causal: the keys of the block up to the query's own.

    Args:
        block_size: Positions per block; the last block may be shorter.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = {
        Pattern.NONCAUSAL_CROSS: _UNALIGNED,
        Pattern.CAUSAL_CROSS: _UNALIGNED,
    }
    backends: ClassVar = {"flex": patterns}
    drops_weights = True
    takes_rotary = True

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, block_size: int, **common: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if block_size < 1:
            self._fail(f"block_size must be positive, got {block_size}")
        self.block_size = block_size

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
        batch_size, _, length, _ = q.shape
        is_causal = self.pattern is Pattern.CAUSAL_SELF
        if self.backend == "flex":
            sees = masks.same_block(self.block_size)
            return flex_masked_attention(
                q, k, v, sees, is_causal=is_causal, key_padding_mask=key_padding_mask
            )
        size = min(self.block_size, length)
        allowed = None
        if key_padding_mask is not None:
            allowed = ~key_padding_mask[:, :, None]
        elif length % size and not is_causal:
            # What fills the last block up stands at its end, where no causal query sees it.
            allowed = torch.ones(batch_size, length, 1, dtype=torch.bool, device=q.device)
        if allowed is not None:
            allowed = in_chunks(allowed, size).flatten(0, 1).mT[:, None]  # (B T, 1, 1, b)
        # T blocks of b positions, each a sample of its own: (B T, H, b, D).
        q, k, v = (in_chunks(x, size).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        out = masked_attention(q, k, v, allowed, is_causal=is_causal, dropout=dropout)
        out = out.transpose(1, 2).unflatten(0, (batch_size, -1)).flatten(1, 2)  # (B, T b, H, D)
        return out[:, :length].transpose(1, 2)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep the keys and values of the last block, position p in slot p mod block_size."""
        end = position + k.shape[-2]
        kept = min(k.shape[-2], (end - 1) % self.block_size + 1)
        slots = torch.arange(end - kept, end, device=k.device) % self.block_size
        new = {"k": k, "v": v}
        if not memory:
            size = (*k.shape[:2], self.block_size, k.shape[-1])
            memory = {name: x.new_zeros(size) for name, x in new.items()}
        return {
            name: memory[name].index_copy_(2, slots, x[:, :, -kept:]) for name, x in new.items()
        }

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the slots of this block; those after them hold the block before it."""
        filled = position % self.block_size + 1
        return masked_attention(q, memory["k"][:, :, :filled], memory["v"][:, :, :filled])

    def memory_elements(self, length: int) -> int:
        """One block of keys and values: 2 b E."""
        return self.num_kv(self.block_size)
