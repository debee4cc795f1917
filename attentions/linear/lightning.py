"""Lightning attention: the linear attention of TransNormerLLM, with a fixed decay and a gate.

Source: Qin et al., "Various Lengths, Constant Speed: Efficient Language Modeling with Lightning
Attention", 2024, arXiv:2405.17381, section 3 (blocks) and equations 10, 11 and 14 (the model).
The paper has the causal self pattern. Here the noncausal one weighs by lambda^|i-j|; in the cross
patterns each query reads the final state of the context, in which its end weighs most.
Departs from it: without the rotation that its first layer has (equation 9). The authors' code
departs from the paper too: head h decays there by exp(-2^(-8 (h + 1) / H)), as in ALiBi. What makes
it fast on a GPU is a fused kernel; this is the same arithmetic in blocks.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.fixed_decay import decayed_attention, decayed_sum, distance_to_last


class LightningAttention(MultiHeadAttention):
    """RMS((phi(Q) phi(K)^T * decay) V) * (x W_u), with phi = swish and no normaliser.

    The norm is over the heads together. q_proj gives W_u too, as num_heads more heads.

    Args:
        fastest: Head h of H decays by lambda = exp(-fastest (1 - layer / num_layers) h / H) at each
            position, in the first layer fastest of all; 0 for no decay.
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
        fastest: float = 8.0,
        eps: float = 1e-6,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if fastest < 0:
            self._fail(f"fastest must not be negative, got {fastest}")
        below = self.layer / self.num_layers if self.num_layers else 0.0
        self.fastest = fastest * (1.0 - below)
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

    def _gate(self, mixed: Tensor, gate: Tensor) -> Tensor:
        mean_square = mixed.square().mean(dim=(1, 3), keepdim=True)
        return mixed * (mean_square + self.eps).rsqrt() * gate

    def _log_decay(self, like: Tensor) -> Tensor:
        h = torch.arange(self.num_heads, device=like.device, dtype=like.dtype)
        return h * (-self.fastest / self.num_heads)


def _key_features(k: Tensor, padding_mask: Tensor | None) -> Tensor:
    phi_k = F.silu(k)
    if padding_mask is not None:
        phi_k = phi_k.masked_fill(padding_mask[:, None, :, None], 0.0)
    return phi_k
