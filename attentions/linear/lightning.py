"""Lightning attention: the linear attention of TransNormerLLM, with a fixed decay and a gate.

Source: Qin et al., "Various Lengths, Constant Speed: Efficient Language Modeling with Lightning
Attention", 2024, arXiv:2405.17381, section 3 (blocks) and equations 10, 11 and 14 (the model).
The paper has the causal self pattern. Here the noncausal one weighs by lambda^|i-j|; in the cross
patterns each query reads the final state of the context, in which its end weighs most.
Departs from it: without the rotation that its first layer has (equation 9). The decays are those of
the authors' code (lightning-attention d15c385), or the paper's, by which 7 of 8 heads of the first
layer lose more than half at each position. That code's module departs from the paper further: swish
on the values too, LayerNorm with weights in place of the RMS, and as gate the sigmoid of a map of
rank head_dim; here these are the paper's. What makes it fast on a GPU is a fused kernel; this is
the same arithmetic in blocks.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.fixed_decay import decayed_attention, decayed_sum, distance_to_last
from attentions.functional.positions import alibi_slopes


class LightningAttention(MultiHeadAttention):
    """RMS((phi(Q) phi(K)^T * decay) V) * (x W_u), with phi = swish and no normaliser.

    The norm is over the heads together. q_proj gives W_u too, as num_heads more heads.

    Head h of H, from 0, decays by lambda = exp(-rate) at each position, less from layer l to layer
    of the L of the backbone.

    Args:
        decay: "code" for the rate 2^(-8 (h + 1) / H) (1 - l / (L - 1) + 1e-5), with ALiBi's
            exponents where H is no power of two; "paper" for 8 h / H (1 - l / L).
        eps: Added to the mean square in the norm.
    """

    patterns = frozenset(Pattern)
    backends: ClassVar = {"fla": frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})}
    full_precision = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        decay: str = "code",
        eps: float = 1e-6,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if decay not in ("code", "paper"):
            self._fail(f"decay must be 'code' or 'paper', got {decay!r}")
        self.decay = decay
        self.eps = eps
        self.q_proj = nn.Linear(embed_dim, 2 * embed_dim)
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
        """See `MultiHeadAttention.mix`; q has the heads of the gate behind its own."""
        if self.pattern.is_cross:
            return self.read(q, self.absorb({}, k, v, key_padding_mask=key_padding_mask))
        q, gate = q.chunk(2, dim=1)
        phi_k = _key_features(k, key_padding_mask)
        both_ways = self.pattern is Pattern.NONCAUSAL_SELF
        decay, backend = self._log_decay(k), self.backend
        mixed = decayed_attention(F.silu(q), phi_k, v, decay, both_ways=both_ways, backend=backend)
        return self._gate(mixed, gate)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Decay the state (B, H, D, D) and add phi(k) v^T to it."""
        phi_k = _key_features(k, key_padding_mask)
        distance = distance_to_last(k, key_padding_mask)
        return {"state": decayed_sum(phi_k, v, self._log_decay(k), distance, memory.get("state"))}

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """phi(q) applied to the state."""
        q, gate = q.chunk(2, dim=1)
        return self._gate(F.silu(q) @ memory["state"], gate)

    def memory_elements(self, length: int) -> int:
        """The sums: H D D."""
        return self.embed_dim * self.head_dim

    def _gate(self, mixed: Tensor, gate: Tensor) -> Tensor:
        mean_square = mixed.square().mean(dim=(1, 3), keepdim=True)
        return mixed * (mean_square + self.eps).rsqrt() * gate

    def _log_decay(self, like: Tensor) -> Tensor:
        """(H,); in a backbone of unknown depth that of the first layer."""
        layer, num_layers = (self.layer, self.num_layers) if self.num_layers else (0, 1)
        if self.decay == "code":
            slopes = alibi_slopes(self.num_heads, like.device).to(like.dtype)
            return -slopes * (1.0 - layer / max(1, num_layers - 1) + 1e-5)
        h = torch.arange(self.num_heads, device=like.device, dtype=like.dtype)
        return h * (-8.0 / self.num_heads * (1.0 - layer / num_layers))


def _key_features(k: Tensor, padding_mask: Tensor | None) -> Tensor:
    phi_k = F.silu(k)
    if padding_mask is not None:
        phi_k = phi_k.masked_fill(padding_mask[:, None, :, None], 0.0)
    return phi_k
