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
        distance_keys = self._heads(self.distance_proj, self._sinusoids(q, length - 1, lowest))
        return masked_attention(
            q + self.content_bias.to(q.dtype),
            k,
            v,
            None if key_padding_mask is None else ~key_padding_mask[:, None, None, :],
            bias=_shift(self._distance_query(q) @ distance_keys.mT),
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
        bias = projected @ self._sinusoids(q, position, 0)[0].mT
        return masked_attention(q + self.content_bias.to(q.dtype), k, v, bias=bias)

    def _distance_query(self, q: Tensor) -> Tensor:
        return (q + self.distance_bias.to(q.dtype)) * self.head_dim**-0.5

    def _sinusoids(self, like: Tensor, highest: int, lowest: int) -> Tensor:
        """r of the distances from `highest` down to `lowest`: (1, distances, E)."""
        # In float32 at least: in bfloat16 distance 257 would be 256.
        precise = torch.promote_types(like.dtype, torch.float32)
        distance = torch.arange(highest, lowest - 1, -1, device=like.device, dtype=precise)
        pair = torch.arange(0, self.embed_dim, 2, device=like.device, dtype=precise)
        angle = distance[:, None] * 10000.0 ** (-pair / self.embed_dim)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)[None].to(like.dtype)


def _shift(scores: Tensor) -> Tensor:
    """Scores by distance (B, H, N, W) to scores by key (B, H, N, N), without a copy.

    Column c is the distance N - 1 - c, so query i has key j in column N - 1 - i + j: each query
    starts one column before the last, as if rows were one shorter. Distances below N - W are not
    there, and what stands in their place means nothing.
    """
    length, width = scores.shape[-2:]
    rows = scores.flatten(-2)[..., length - 1 :][..., : length * (width - 1)]
    return rows.unflatten(-1, (length, width - 1))[..., :length]
