"""Retention: linear attention with rotated positions and one fixed decay per head, then a gate.

Source: Sun et al., "Retentive Network: A Successor to Transformer for Large Language Models",
2023, arXiv:2307.08621, section 2 (equations 5 to 8).
The paper has the causal self pattern. Here the noncausal one sums both directions, that is
D_ij = gamma^|i-j|; in the cross patterns each query reads the final state of the context, as if it
stood on its last position, so what is near the end of the context weighs most.
Departs from it: the norm per head is RMS without weights (the authors' code too), and projections
have biases, as all here. Departs from the authors' code: angles are spaced as in rotary positions,
base^(-2i / D), there base^(-2i / (D - 2)).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.fixed_decay import decayed_attention, decayed_sum, distance_to_last
from attentions.functional.positions import rotate


class RetentionAttention(MultiHeadAttention):
    """RMS((Q K^T / sqrt D * decay) V) * swish(x W_G), with rotated Q and K.

    Values are `value_expansion` times as wide as keys: v_proj gives that many heads in the place of
    one. Beside the queries q_proj gives W_G, as so many heads more.

    Args:
        value_expansion: Width of the values over that of the keys.
        first_exponent: Head h forgets by gamma = 1 - 2^-(first_exponent + h) at each position.
        rotary_base: The pair i of dimensions turns by rotary_base^(-2i / D) at each position; None
            for no rotation.
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
        value_expansion: int = 2,
        first_exponent: float = 5.0,
        rotary_base: float | None = 10000.0,
        eps: float = 1e-6,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if value_expansion < 1:
            self._fail(f"value_expansion must be positive, got {value_expansion}")
        if first_exponent <= 0:
            self._fail(f"first_exponent must be positive, got {first_exponent}")
        if rotary_base is not None and rotary_base <= 0:
            self._fail(f"rotary_base must be positive or null, got {rotary_base}")
        if rotary_base is not None and self.head_dim % 2:
            self._fail(f"rotation needs an even head_dim, got {self.head_dim}")
        self.value_expansion = value_expansion
        self.first_exponent = first_exponent
        self.rotary_base = rotary_base
        self.eps = eps
        value_dim = value_expansion * embed_dim
        self.q_proj = nn.Linear(embed_dim, embed_dim + value_dim)
        self.v_proj = nn.Linear(embed_dim, value_dim)
        self.out_proj = nn.Linear(value_dim, embed_dim)
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
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0.0)
        position = torch.arange(k.shape[-2], device=k.device, dtype=k.dtype)[None]
        q, gate = q.tensor_split([self.num_heads], dim=1)
        both_ways = self.pattern is Pattern.NONCAUSAL_SELF
        retained = decayed_attention(
            self._rotate(q, position),
            self._rotate(k, position),
            self._widen(v),
            self._log_decay(k),
            both_ways=both_ways,
            backend=self.backend,
        )
        return self._gate(retained, gate)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Decay the state (B, H, D, value_expansion D) and add k v^T to it."""
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0.0)
        distance = distance_to_last(k, key_padding_mask)
        # The queries of the cross patterns stand on the last position, with an angle of zero.
        last = 0 if self.pattern.is_cross else position + k.shape[-2] - 1
        rotated = self._rotate(k, last - distance)
        before = memory.get("state")
        state = decayed_sum(rotated, self._widen(v), self._log_decay(k), distance, before)
        return {"state": state}

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """The rotated queries applied to the state."""
        q, gate = q.tensor_split([self.num_heads], dim=1)
        if not self.pattern.is_cross:
            end = position + q.shape[-2]
            q = self._rotate(q, torch.arange(position, end, device=q.device, dtype=q.dtype)[None])
        return self._gate(q @ memory["state"], gate)

    def memory_elements(self, length: int) -> int:
        """The sums, with values x times as wide: x H D D."""
        return self.value_expansion * self.embed_dim * self.head_dim

    def _gate(self, retained: Tensor, gate: Tensor) -> Tensor:
        """Scale, norm and gate: (B, H, M, value_expansion D) to (B, value_expansion H, M, D)."""
        scaled = retained * self.head_dim**-0.5
        normed = F.rms_norm(scaled, scaled.shape[-1:], eps=self.eps)
        narrow = normed.unflatten(-1, (self.value_expansion, -1)).transpose(2, 3).flatten(1, 2)
        return narrow * F.silu(gate)

    def _widen(self, v: Tensor) -> Tensor:
        """(B, value_expansion H, N, D) to (B, H, N, value_expansion D)."""
        return v.unflatten(1, (self.num_heads, -1)).transpose(2, 3).flatten(-2)

    def _log_decay(self, like: Tensor) -> Tensor:
        h = torch.arange(self.num_heads, device=like.device, dtype=like.dtype)
        return torch.log1p(-torch.exp2(-(self.first_exponent + h)))

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return x if self.rotary_base is None else rotate(x, positions, self.rotary_base)
