"""Linear attention: softmax(QK^T)V becomes phi(Q)(phi(K)^T V), linear in the length.

Source: Katharopoulos et al., "Transformers are RNNs", ICML 2020, arXiv:2006.16236.
Departs from it: `eps` in the normaliser, as in the authors' code and LRA's.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.scan import causal_scan


class LinearAttention(MultiHeadAttention):
    """Kernel attention with the positive feature map phi(x) = elu(x) + 1.

    Args:
        eps: Added to the normaliser, so that a query with only padded keys returns zero.
    """

    patterns = frozenset(Pattern)
    backends: ClassVar = {"fla": frozenset({Pattern.CAUSAL_SELF})}
    full_precision = True

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, eps: float = 1e-6, **common: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        self.eps = eps

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
        if self.pattern is Pattern.CAUSAL_SELF:
            phi_k, v1 = self._features(k, v, key_padding_mask)
            return self._normalise(causal_scan(F.elu(q) + 1, phi_k, v1, backend=self.backend))
        # In causal_cross too: queries never meet, so a later one cannot leak.
        return self.read(q, self.absorb({}, k, v, key_padding_mask=key_padding_mask))

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Add phi(k) v^T, and phi(k) for the normaliser, to the sums (B, H, D, D + 1)."""
        phi_k, v1 = self._features(k, v, key_padding_mask)
        sums = phi_k.mT @ v1
        return {"sums": memory["sums"] + sums if memory else sums}

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """phi(q) applied to the sums."""
        return self._normalise((F.elu(q) + 1) @ memory["sums"])

    def memory_elements(self, length: int) -> int:
        """The sums and their normaliser: H D (D + 1)."""
        return self.embed_dim * (self.head_dim + 1)

    def _features(self, k: Tensor, v: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        phi_k = F.elu(k) + 1
        if padding is not None:
            phi_k = phi_k.masked_fill(padding[:, None, :, None], 0.0)
        # A column of ones beside v carries the normaliser through the same sums.
        return phi_k, F.pad(v, (0, 1), value=1.0)

    def _normalise(self, sums: Tensor) -> Tensor:
        return sums[..., :-1] / (sums[..., -1:] + self.eps)
