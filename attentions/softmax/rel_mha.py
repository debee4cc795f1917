"""Relative multi-head attention: scores by content and by distance, Transformer-XL's.

Source: Dai et al., "Transformer-XL: Attentive Language Models beyond a Fixed-Length Context", ACL
2019, arXiv:1901.02860; both directions in one sequence as in Yang et al., "XLNet", NeurIPS 2019,
arXiv:1906.08237.
Departs from them: without the recurrence over segments; u and w belong to the layer, as in XLNet
(in Transformer-XL all layers share them).

Shapes: B batch, H heads, M query length, N context length, D head_dim, E embed_dim.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.distances import distance_sinusoids, skew
from attentions.functional.growing import append
from attentions.functional.masked import masked_attention

_NO_DISTANCE = "there is no distance between positions of two sequences"


class RelativeAttention(MultiHeadAttention):
    """softmax(((q_i + u) . k_j + (q_i + w) . W_R r_{i-j}) / sqrt D) V, with sinusoids r.

    Distances count positions, padded ones between two others too.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = {
        Pattern.NONCAUSAL_CROSS: _NO_DISTANCE,
        Pattern.CAUSAL_CROSS: _NO_DISTANCE,
    }
    drops_weights = True

    def __init__(self, embed_dim: int, num_heads: int, pattern: Pattern, **common: Any) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if embed_dim % 2:
            self._fail(f"sines and cosines need an even embed_dim, got {embed_dim}")
        self.distance_proj = nn.Linear(embed_dim, embed_dim, bias=False)  # W_R
        nn.init.xavier_uniform_(self.distance_proj.weight, gain=2**-0.5)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))  # u
        self.distance_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))  # w

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
        is_causal = self.pattern is Pattern.CAUSAL_SELF
        length = q.shape[-2]
        lowest = -1 if is_causal else -length
        waves = distance_sinusoids(length - 1, lowest, self.embed_dim, q)
        distance_keys = self._heads(self.distance_proj, waves[None])
        # Column c is the distance N - 1 - c, so query i has key j in column N - 1 - i + j.
        scores = skew(self._distance_query(q) @ distance_keys.mT, start=length - 1, step=1)
        return masked_attention(
            q + self.content_bias.to(q.dtype),
            k,
            v,
            None if key_padding_mask is None else ~key_padding_mask[:, None, None, :],
            bias=scores[..., :length],
            is_causal=is_causal,
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
        """Keep every key and value."""
        return append(memory, position, k=k, v=v)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Answer one query (B, H, 1, D), whose distances go from `position` down to zero."""
        k, v = (memory[name][:, :, : position + 1] for name in "kv")
        # W_R goes to the one query rather than to all the distances.
        weight = self.distance_proj.weight.to(q.dtype).unflatten(0, (self.num_heads, -1))
        projected = self._distance_query(q) @ weight  # (B, H, 1, E)
        bias = projected @ distance_sinusoids(position, 0, self.embed_dim, q).mT
        return masked_attention(q + self.content_bias.to(q.dtype), k, v, bias=bias)

    def memory_elements(self, length: int) -> int:
        """All keys and values: 2 N E."""
        return self.num_kv(length)

    def _distance_query(self, q: Tensor) -> Tensor:
        return (q + self.distance_bias.to(q.dtype)) * self.head_dim**-0.5
