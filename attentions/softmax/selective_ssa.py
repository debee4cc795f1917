"""Selective self-attention (SSA): softmax attention with a temperature per query and per value.

Source: Zhang et al., "Selective Attention: Enhancing Transformer through Principled Context
Control", NeurIPS 2024, arXiv:2411.12892, in its form that shares weights: the temperatures read
the projected queries and values. The authors' code has the term of the position alone, with
exp(-exp(beta)) in the place of sigma(alpha), and one alpha for all heads.
The cross patterns are ours: queries count target positions, values those of the source.

Shapes: B batch, H heads, L length, D head_dim.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.growing import append
from attentions.functional.masked import masked_attention

_ALPHA = -4.5
"""sigma(-4.5) = 0.011 = exp(-exp(1.5)), where the authors' code starts: nearly softmax."""


class SelectiveAttention(MultiHeadAttention):
    """softmax((tau_q * Q) K^T / sqrt D) (tau_v * V), one inverse temperature per token and head.

    tau(x_t) = tanh(a . x_t) + 1 + sigma(alpha) log t, with x_t the token's query or value of the
    head and t its position, counted from 1.
    """

    patterns = frozenset(Pattern)
    drops_weights = True

    def __init__(self, embed_dim: int, num_heads: int, pattern: Pattern, **common: Any) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        self.query_token = nn.Parameter(torch.empty(num_heads, self.head_dim, 1))  # a, of tau_q
        self.value_token = nn.Parameter(torch.empty(num_heads, self.head_dim, 1))
        for token in (self.query_token, self.value_token):
            nn.init.normal_(token, std=0.02)
        self.query_alpha = nn.Parameter(torch.tensor(_ALPHA))
        self.value_alpha = nn.Parameter(torch.tensor(_ALPHA))

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
        return masked_attention(
            _temper(q, self.query_token, self.query_alpha),
            k,
            _temper(v, self.value_token, self.value_alpha),
            None if key_padding_mask is None else ~key_padding_mask[:, None, None, :],
            is_causal=self.pattern is Pattern.CAUSAL_SELF,
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
        """Keep every key, and every value at its temperature."""
        v = _temper(v, self.value_token, self.value_alpha, position)
        return append(memory, position, key_padding_mask, k=k, v=v)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """One row of softmax per query, over the whole context or the tokens so far."""
        length = None if self.pattern.is_cross else position + q.shape[-2]
        return masked_attention(
            _temper(q, self.query_token, self.query_alpha, position),
            memory["k"][:, :, :length],
            memory["v"][:, :, :length],
            ~memory["padding"][:, None, None, :] if "padding" in memory else None,
        )

    def memory_elements(self, length: int) -> int:
        """All keys and values: 2 N E."""
        return self.num_kv(length)


def _temper(x: Tensor, token: Tensor, alpha: Tensor, position: int = 0) -> Tensor:
    """tau(x) * x for queries or values x (B, H, L, D) that stand at `position` and after."""
    # In float32 at least: bfloat16 has but every other position after 256.
    precise = torch.promote_types(x.dtype, torch.float32)
    first, last = position + 1, position + x.shape[-2]
    t = torch.arange(first, last + 1, device=x.device, dtype=precise)[:, None]
    by_position = alpha.to(precise).sigmoid() * t.log()
    tau = (x @ token.to(x.dtype)).to(precise).tanh() + 1.0 + by_position  # (B, H, L, 1)
    return tau.to(x.dtype) * x
