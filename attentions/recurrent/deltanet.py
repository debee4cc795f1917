"""DeltaNet: linear attention whose memory replaces what a key recalled, instead of adding to it.

Source: Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length",
NeurIPS 2024, arXiv:2406.06484. Patterns and departures: see `attentions.recurrent.delta`.
"""

from typing import Any

from torch import Tensor

from attentions.base import Pattern
from attentions.recurrent.delta import DeltaRuleAttention


class DeltaNetAttention(DeltaRuleAttention):
    """S_t = S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, read by o_t = S_t q_t, then a norm.

    q and k are silu(conv(W x)) of norm 1, v is silu(conv(W x)), beta is sigmoid(W x) of each head.

    Args:
        conv_size: Positions that the short convolutions see.
        eps: Added to the mean square in the norm.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        conv_size: int = 4,
        eps: float = 1e-5,
        **common: Any,
    ) -> None:
        super().__init__(
            embed_dim, num_heads, pattern, value_expansion=1, conv_size=conv_size, eps=eps, **common
        )

    def log_decay(self, x: Tensor) -> None:
        """None: it forgets only what it overwrites."""
        return None

    def gate(self, normed: Tensor, query: Tensor) -> Tensor:
        """Ungated."""
        return normed
