"""Hedgehog: linear attention with learned features, as spiky and monotonic as softmax attention's.

Source: Zhang et al., "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax
Mimicry", ICLR 2024, arXiv:2402.04347, and the authors' code (lolcats): features that sum to one.
The paper also trains the maps to imitate a given softmax attention; here they learn with the rest.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.scan import causal_scan


class HedgehogAttention(MultiHeadAttention):
    """Kernel attention with phi(x) = [softmax(x W), softmax(-x W)], 2 D positive features.

    Each head has a W (D, D) for the queries and one for the keys, the identity at the start.

    Args:
        eps: The least that a feature can be, so that every key has some weight.
    """

    patterns = frozenset(Pattern)
    backends: ClassVar = {"fla": frozenset({Pattern.CAUSAL_SELF})}
    full_precision = True

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, eps: float = 1e-12, **common: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if eps <= 0:
            self._fail(f"eps must be positive, got {eps}")
        self.eps = eps
        self.q_map = nn.Parameter(torch.eye(self.head_dim).repeat(num_heads, 1, 1))
        self.k_map = nn.Parameter(torch.eye(self.head_dim).repeat(num_heads, 1, 1))

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
        if self.pattern is not Pattern.CAUSAL_SELF:
            return self.read(q, self.absorb({}, k, v, key_padding_mask=key_padding_mask))
        phi_k, v1 = self._writings(k, v, key_padding_mask)
        phi_q = self._features(q, self.q_map)
        return self._normalise(causal_scan(phi_q, phi_k, v1, backend=self.backend))

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Add phi(k) v^T, and phi(k) for the normaliser, to the sums (B, H, 2 D, D + 1)."""
        phi_k, v1 = self._writings(k, v, key_padding_mask)
        sums = phi_k.mT @ v1
        return {"sums": memory["sums"] + sums if memory else sums}

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """phi(q) applied to the sums."""
        return self._normalise(self._features(q, self.q_map) @ memory["sums"])

    def memory_elements(self, length: int) -> int:
        """The sums and their normaliser: H 2 D (D + 1)."""
        return 2 * self.embed_dim * (self.head_dim + 1)

    def _features(self, x: Tensor, weight: Tensor) -> Tensor:
        logits = x @ weight.to(x.dtype)
        both = torch.cat([logits.softmax(dim=-1), (-logits).softmax(dim=-1)], dim=-1)
        return both.clamp(min=self.eps)

    def _writings(self, k: Tensor, v: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        phi_k = self._features(k, self.k_map)
        if padding is not None:
            phi_k = phi_k.masked_fill(padding[:, None, :, None], 0.0)
        # A column of ones beside v carries the normaliser through the same sums.
        return phi_k, F.pad(v, (0, 1), value=1.0)

    def _normalise(self, sums: Tensor) -> Tensor:
        # phi(q) sums to 2: only without any key is the normaliser below 2 eps, and the output zero.
        return sums[..., :-1] / sums[..., -1:].clamp(min=self.eps)
