"""Scaled dot-product attention, computed by torch's own kernels; grouped-query as an option.

Sources: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762; Ainslie et al., "GQA",
2023, arXiv:2305.13245.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern


class SoftmaxAttention(MultiHeadAttention):
    """softmax(Q K^T / sqrt D) V.

    Args:
        num_kv_heads: Number of key and value heads, each read by an equal group of query heads;
            None for as many as query heads, 1 for multi-query attention.
    """

    patterns = frozenset(Pattern)
    drops_weights = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        num_kv_heads: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if self.num_kv_heads < 1 or num_heads % self.num_kv_heads:
            self._fail(f"num_kv_heads must divide num_heads = {num_heads}, got {num_kv_heads}")
        if self.num_kv_heads != num_heads:
            self.k_proj = nn.Linear(embed_dim, self.num_kv_heads * self.head_dim)
            self.v_proj = nn.Linear(embed_dim, self.num_kv_heads * self.head_dim)
            self.reset_projections()

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
        attn_mask = None
        if key_padding_mask is not None:
            # SDPA's mask is True where a query may attend: the opposite of a padding mask.
            attn_mask = ~key_padding_mask[:, None, None, :]
            if is_causal:
                length = q.shape[-2]
                attn_mask = attn_mask & torch.ones(
                    length, length, dtype=torch.bool, device=q.device
                ).tril()
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=attn_mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal and attn_mask is None,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        if attn_mask is not None:
            # Without a key to attend to, kernels differ (NaN or zero); here it is zero.
            out = out.masked_fill(~attn_mask.any(dim=-1, keepdim=True), 0.0)
        return out

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep every key and value, in a buffer that doubles when it is full."""
        if not memory:
            kept = {"k": k, "v": v}
            return kept if key_padding_mask is None else kept | {"padding": key_padding_mask}
        end = position + k.shape[-2]
        room = memory["k"].shape[-2]
        if end > room:
            grow = (0, 0, 0, max(end, 2 * room) - room)
            memory = {name: F.pad(kept, grow) for name, kept in memory.items()}
        memory["k"][:, :, position:end] = k
        memory["v"][:, :, position:end] = v
        return dict(memory)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """One row of softmax per query, over the whole context or the tokens so far."""
        length = None if self.pattern.is_cross else position + q.shape[-2]
        attn_mask = None
        if "padding" in memory:
            attn_mask = ~memory["padding"][:, None, None, :]
        out = F.scaled_dot_product_attention(
            q,
            memory["k"][:, :, :length],
            memory["v"][:, :, :length],
            attn_mask=attn_mask,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        if attn_mask is not None:
            out = out.masked_fill(~attn_mask.any(dim=-1, keepdim=True), 0.0)
        return out
