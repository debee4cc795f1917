"""Gated linear attention: a memory that forgets feature by feature, as much as the token says.

Source: Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training",
ICML 2024, arXiv:2312.06635, and the authors' code (flash-linear-attention).
They have the causal self pattern. Here the noncausal one sums both directions, with the same
weights; in the cross patterns the context is written once and each query reads the final state, in
which what was written last weighs most.
Departs from them: projections have biases, as all here, and a padded position is passed over.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.gated_scan import gated_scan, gated_state


class GatedLinearAttention(MultiHeadAttention):
    """RMS(q_t S_t / sqrt F) * swish(W_r x_t), with S_t = diag(alpha_t) S_{t-1} + k_t v_t^T.

    alpha_t = sigmoid(W_2 W_1 x_t + b)^(1 / gate_temperature) for each of the F features of a key,
    of which there are fewer than of a value. q_proj gives W_r too, behind the query of each head.

    Args:
        key_expansion: Width of the keys over that of the values.
        gate_rank: Width between W_1 and W_2.
        gate_temperature: The greater, the slower is the forgetting.
        eps: Added to the mean square in the norm.
    """

    patterns = frozenset(Pattern)
    backends: ClassVar = {"fla": frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})}
    full_precision = True
    any_width = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        key_expansion: float = 0.5,
        gate_rank: int = 16,
        gate_temperature: float = 16.0,
        eps: float = 1e-5,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if gate_rank < 1:
            self._fail(f"gate_rank must be positive, got {gate_rank}")
        if gate_temperature <= 0:
            self._fail(f"gate_temperature must be positive, got {gate_temperature}")
        self.key_dim = int(key_expansion * self.head_dim)
        if self.key_dim < 1:
            self._fail(
                f"key_expansion must leave a key at least one of {self.head_dim} features, "
                f"got {key_expansion}"
            )
        self.gate_temperature = gate_temperature
        self.eps = eps
        key_width = num_heads * self.key_dim
        self.q_proj = nn.Linear(embed_dim, key_width + embed_dim)
        self.k_proj = nn.Linear(embed_dim, key_width)
        self.decay_proj = nn.Sequential(
            nn.Linear(embed_dim, gate_rank, bias=False), nn.Linear(gate_rank, key_width)
        )
        self.norm = nn.Parameter(torch.ones(self.head_dim))
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
        """See `MultiHeadAttention.mix`; the gates' logits stand behind the features of q and k."""
        if self.pattern.is_cross:
            return self.read(q, self.absorb({}, k, v, key_padding_mask=key_padding_mask))
        q, gate = q.split([self.key_dim, self.head_dim], dim=-1)
        k, log_decay = self._keys_and_decay(k, key_padding_mask)
        both_ways = self.pattern is Pattern.NONCAUSAL_SELF
        mixed = gated_scan(q, k, v, log_decay, both_ways=both_ways, backend=self.backend)
        return self._finish(mixed, gate)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Decay the state (B, H, F, D) and add k v^T to it."""
        k, log_decay = self._keys_and_decay(k, key_padding_mask)
        return {"state": gated_state(k, v, log_decay, memory.get("state"))}

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """The queries applied to the state."""
        q, gate = q.split([self.key_dim, self.head_dim], dim=-1)
        return self._finish(q @ memory["state"], gate)

    def memory_elements(self, length: int) -> int:
        """The state: H F D."""
        return self.key_dim * self.embed_dim

    def _finish(self, mixed: Tensor, gate: Tensor) -> Tensor:
        scaled = mixed * self.key_dim**-0.5
        normed = F.rms_norm(scaled, self.norm.shape, self.norm.to(mixed.dtype), self.eps)
        return normed * F.silu(gate)

    def _keys_and_values(self, x: Tensor, position: int = 0) -> tuple[Tensor, Tensor]:
        k, logits = self._heads(self.k_proj, x), self._heads(self.decay_proj, x)
        return torch.cat([k, logits], dim=-1), self._heads(self.v_proj, x)

    def _keys_and_decay(self, k: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        k, logits = k.chunk(2, dim=-1)
        log_decay = F.logsigmoid(logits) / self.gate_temperature
        if padding is not None:
            padding = padding[:, None, :, None]
            k, log_decay = k.masked_fill(padding, 0.0), log_decay.masked_fill(padding, 0.0)
        return k, log_decay
