"""Gated DeltaNet: the delta rule on a memory that also decays, at a rate set by each token.

Source: Yang et al., "Gated Delta Networks: Improving Mamba2 with Delta Rule", ICLR 2025,
arXiv:2412.06464. Patterns and departures: see `attentions.recurrent.delta`.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.functional.precision import in_full
from attentions.recurrent.delta import DeltaRuleAttention


class GatedDeltaNetAttention(DeltaRuleAttention):
    """S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, and swish(W x) as a gate.

    alpha_t = exp(-rate softplus(W x_t + shift)) of each head, as Mamba-2's; the gate multiplies the
    normed output; the rest is DeltaNet's. As in the authors' code, rates and shifts are trained
    without weight decay.

    Args:
        value_expansion: Width of the values over that of the keys.
        conv_size: Positions that the short convolutions see.
        eps: Added to the mean square in the norm.
    """

    undecayed: ClassVar = dict.fromkeys(("log_rate", "decay_shift"), math.inf)

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        value_expansion: int = 2,
        conv_size: int = 4,
        eps: float = 1e-5,
        **common: Any,
    ) -> None:
        super().__init__(
            embed_dim,
            num_heads,
            pattern,
            value_expansion=value_expansion,
            conv_size=conv_size,
            eps=eps,
            **common,
        )
        self.gate_proj = nn.Linear(embed_dim, self.v_proj.out_features)
        nn.init.xavier_uniform_(self.gate_proj.weight, gain=2**-0.5)
        nn.init.zeros_(self.gate_proj.bias)
        self.decay_proj = nn.Linear(embed_dim, num_heads, bias=False)
        # The authors' start, which is Mamba-2's: rates up to 16 (not from 0, which has no log) and
        # softplus(shift) log-uniform from 0.001 to 0.1.
        self.log_rate = nn.Parameter(torch.empty(num_heads).uniform_(0.01, 16.0).log())
        start = torch.empty(num_heads).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.decay_shift = nn.Parameter(start.expm1().log())

    def log_decay(self, x: Tensor) -> Tensor:
        """-rate softplus(W x + shift)."""
        logits = in_full(self.decay_proj(x))
        rate = self.log_rate.to(logits.dtype).exp()
        return -rate * F.softplus(logits + self.decay_shift.to(logits.dtype))

    def gate(self, normed: Tensor, query: Tensor) -> Tensor:
        """Multiplied by swish(W x)."""
        return normed * F.silu(self.gate_proj(query).to(normed.dtype))
