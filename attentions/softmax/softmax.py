"""Scaled dot-product attention, computed by torch's own kernels; grouped-query as an option.

Sources: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762; Ainslie et al., "GQA",
2023, arXiv:2305.13245; Press et al., "Train Short, Test Long" (ALiBi), 2022, arXiv:2108.12409.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attentions import masks
from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.flex import flex_masked_attention
from attentions.functional.growing import append
from attentions.functional.masked import masked_attention
from attentions.functional.positions import alibi, alibi_slopes


class SoftmaxAttention(MultiHeadAttention):
    """softmax(Q K^T / sqrt D) V.

    Args:
        num_kv_heads: Number of key and value heads, each read by an equal group of query heads;
            None for as many as query heads, 1 for multi-query attention.
        alibi: Whether scores fall linearly with the distance, more in some heads than in others
            (`functional.positions.alibi`). In the self patterns; on torch's kernels it costs the
            memory of all scores.
    """

    patterns = frozenset(Pattern)
    backends: ClassVar = {"flex": patterns}
    drops_weights = True
    takes_rotary = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        num_kv_heads: int | None = None,
        alibi: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if alibi and self.pattern.is_cross:
            self._fail(f"alibi compares places in one sequence; {self.pattern} has two")
        self.alibi = alibi
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
        enable_gqa = self.num_kv_heads != self.num_heads
        if self.backend == "flex":
            return flex_masked_attention(
                q,
                k,
                v,
                masks.every,
                is_causal=is_causal,
                key_padding_mask=key_padding_mask,
                slopes=alibi_slopes(self.num_heads, q.device) if self.alibi else None,
                enable_gqa=enable_gqa,
            )
        return masked_attention(
            q,
            k,
            v,
            None if key_padding_mask is None else ~key_padding_mask[:, None, None, :],
            bias=self._bias(q, k),
            is_causal=is_causal,
            dropout=self.dropout if self.training else 0.0,
            enable_gqa=enable_gqa,
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
        """Keep every key and value."""
        return append(memory, position, key_padding_mask, k=k, v=v)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """One row of softmax per query, over the whole context or the tokens so far."""
        length = None if self.pattern.is_cross else position + q.shape[-2]
        return masked_attention(
            q,
            memory["k"][:, :, :length],
            memory["v"][:, :, :length],
            ~memory["padding"][:, None, None, :] if "padding" in memory else None,
            bias=self._bias(q, memory["k"][:, :, :length], position),
            enable_gqa=self.num_kv_heads != self.num_heads,
        )

    def memory_elements(self, length: int) -> int:
        """All keys and values: 2 N E, or 2 N D per head of keys where these are shared."""
        return self.num_kv(length)

    def _bias(self, q: Tensor, k: Tensor, position: int = 0) -> Tensor | None:
        if not self.alibi:
            return None
        keys = torch.arange(k.shape[-2], device=k.device)
        return alibi(self.num_heads, keys[position : position + q.shape[-2]], keys)
