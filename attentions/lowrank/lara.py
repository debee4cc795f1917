"""LARA: random features drawn near the sequence's own means, each query weighing them its own way.

Source: Zheng et al., "Linear Complexity Randomized Self-attention Mechanism", ICML 2022,
arXiv:2204.04667; the parametrisation of CAB, ICML 2023, with two of the authors, whose exponents
have D^(-1/2) where the softmax kernel would have D^(-1/4), for steadier training.
The estimator too is CAB's: a proposal counts for a query by exp(mu_c . q_i / sqrt D) over its own
density. The paper's weights, in the authors' own code (efficient-attention 531ff51), have in the
place of that exponential the balance heuristic, its density over the sum of all proposals', plus by
how much the query is more the proposal's than on average; and there a linear layer and a norm make
each mean.
Departs from CAB's code: padding reaches neither the means nor the sums, and dropout acts. The cross
patterns are ours: there the means are of the keys alone, so that queries never meet.

Shapes: B batch, H heads, M query length, N context length, D head_dim, C proposals.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.segments import segment_means, segments

_MASKED = -1e30


class LaraAttention(MultiHeadAttention):
    """A mixture over proposals c of values beta_c = softmax_j(log xi(k_j, w_c)) v_j.

    With log xi(x, w) = (w . x - |x|^2 / 2) / sqrt D. Proposal c has the mean mu_c of a contiguous
    segment of q + k; its sample w_c is mu_c plus a standard normal vector in training, and mu_c in
    evaluation. Query i weighs it by a softmax over c of

        mu_c . q_i / sqrt D + log xi(q_i, w_c) + logsumexp_j log xi(k_j, w_c) - log xi(mu_c, w_c).

    Args:
        num_landmarks: Number of proposals C; fewer positions are a proposal each.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS})
    refuses: ClassVar = {
        Pattern.CAUSAL_SELF: "its proposals are means over the sequence: a later token would leak"
    }
    drops_weights = True
    trains_otherwise = "the proposals are samples, not their means"
    full_precision = True

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, num_landmarks: int, **common: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if num_landmarks < 1:
            self._fail(f"num_landmarks must be positive, got {num_landmarks}")
        self.num_landmarks = num_landmarks

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
        pooled = k if self.pattern.is_cross else q + k
        return self.read(q, self._propose(pooled, k, v, key_padding_mask))

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The proposals of a context; only causal cross decodes, and absorbs it at once."""
        return self._propose(k, k, v, key_padding_mask)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the proposals."""
        # The query's own |q|^2 in xi is the same for all of them and cancels.
        scores = q @ memory["directions"].mT * self.head_dim**-0.5 + memory["log_weights"]
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        return weights @ memory["values"]

    def memory_elements(self, length: int) -> int:
        """R directions with their values and weights: R (2 E + H)."""
        return self.num_landmarks * (2 * self.embed_dim + self.num_heads)

    def _propose(
        self, pooled: Tensor, k: Tensor, v: Tensor, padding_mask: Tensor | None
    ) -> dict[str, Tensor]:
        """The sums mu + w (B, H, C, D), log weights (B, H, 1, C) and values (B, H, C, D)."""
        members = segments(padding_mask, self.num_landmarks)
        means = segment_means(pooled, self.num_landmarks, members)
        samples = means + torch.randn_like(means) if self.training else means
        log_xi = self._log_xi(k @ samples.mT, k)  # (B, H, N, C)
        if padding_mask is not None:
            # Not -inf: a sample of padding alone would have no softmax.
            log_xi = log_xi.masked_fill(padding_mask[:, None, :, None], _MASKED)
        weights = log_xi.softmax(dim=-2)
        if padding_mask is not None:
            weights = weights.masked_fill(padding_mask[:, None, :, None], 0.0)
        own = self._log_xi((means * samples).sum(dim=-1, keepdim=True), means).mT  # (B, H, 1, C)
        log_weights = log_xi.logsumexp(dim=-2, keepdim=True) - own
        is_used = torch.arange(self.num_landmarks, device=k.device)[None] < k.shape[-2]
        if members is not None:
            is_used = members.any(dim=-1)
        return {
            "directions": means + samples,
            "log_weights": log_weights.masked_fill(~is_used[:, None, None], _MASKED),
            "values": weights.mT @ v,
        }

    def _log_xi(self, products: Tensor, x: Tensor) -> Tensor:
        """log xi(x, w) from the products w . x (..., L, C or 1) and x (..., L, D)."""
        half_square = 0.5 * x.square().sum(dim=-1, keepdim=True)
        return (products - half_square) * self.head_dim**-0.5
