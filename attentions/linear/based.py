"""Based's linear attention: softmax attention with exp(s) cut after its second power.

Source: Arora et al., "Simple linear attention language models balance the recall-throughput
tradeoff", ICML 2024, arXiv:2402.18668, and the authors' code (based). The model alternates it with
short windows (`local_window`) and gated convolutions, which are layers of their own.
Departs from the code: the products x_i x_j and x_j x_i are one feature, of twice the weight.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.chunks import in_chunks
from attentions.functional.scan import exclusive_scan

CHUNK_SIZE = 128
"""Of the causal form. Shorter ones keep more states, longer ones compute more masked scores."""


class BasedAttention(MultiHeadAttention):
    """Kernel attention with phi(q) . phi(k) = 1 + s + s^2 / 2, where s = q . k / sqrt(key_dim).

    That is phi(x) = [1, x_i, x_i^2 / sqrt 2, x_i x_j for i < j] for x divided by key_dim^(1/4). No
    weight is below 1/2, so that the normaliser needs no eps.

    Args:
        key_dim: Width of queries and keys. Small, for phi is (key_dim + 1) (key_dim + 2) / 2 wide.
    """

    patterns = frozenset(Pattern)
    full_precision = True
    any_width = True

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, key_dim: int = 16, **common: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if key_dim < 1:
            self._fail(f"key_dim must be positive, got {key_dim}")
        self.key_dim = key_dim
        self.q_proj = nn.Linear(embed_dim, num_heads * key_dim)
        self.k_proj = nn.Linear(embed_dim, num_heads * key_dim)
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
        if self.pattern is not Pattern.CAUSAL_SELF:
            return self.read(q, self.absorb({}, k, v, key_padding_mask=key_padding_mask))
        length = q.shape[-2]
        chunk_size = min(CHUNK_SIZE, length)
        v1 = in_chunks(_with_ones(v, key_padding_mask), chunk_size)  # (B, H, T, C, D + 1)
        q, k = in_chunks(q, chunk_size), in_chunks(k, chunk_size)
        # Inside a chunk the kernel itself, key_dim wide; between chunks its features.
        s = q @ k.mT * self.key_dim**-0.5
        sums = (1.0 + s + 0.5 * s.square()).tril() @ v1
        if length > chunk_size:
            sums = sums + self._features(q) @ exclusive_scan(self._features(k).mT @ v1)
        return _normalise(sums.flatten(2, 3)[:, :, :length])

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Add phi(k) v^T, and phi(k) for the normaliser, to the sums (B, H, F, D + 1)."""
        sums = self._features(k).mT @ _with_ones(v, key_padding_mask)
        return {"sums": memory["sums"] + sums if memory else sums}

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """phi(q) applied to the sums."""
        return _normalise(self._features(q) @ memory["sums"])

    def memory_elements(self, length: int) -> int:
        """The sums and their normaliser: H F (D + 1), with F = (d + 1) (d + 2) / 2 of key_dim d."""
        num_features = (self.key_dim + 1) * (self.key_dim + 2) // 2
        return self.num_heads * num_features * (self.head_dim + 1)

    def _features(self, x: Tensor) -> Tensor:
        """(..., key_dim) to (..., F)."""
        x = x * self.key_dim**-0.25
        products = [x[..., i, None] * x[..., i + 1 :] for i in range(self.key_dim - 1)]
        return torch.cat([torch.ones_like(x[..., :1]), x, 0.5**0.5 * x.square(), *products], dim=-1)


def _with_ones(v: Tensor, padding: Tensor | None) -> Tensor:
    """v with a column of ones, which carries the normaliser through the same sums."""
    v1 = F.pad(v, (0, 1), value=1.0)
    return v1 if padding is None else v1.masked_fill(padding[:, None, :, None], 0.0)


def _normalise(sums: Tensor) -> Tensor:
    # Each key adds 1/2 at least: only without any key is the normaliser less, and the output zero.
    return sums[..., :-1] / sums[..., -1:].clamp(min=0.25)
