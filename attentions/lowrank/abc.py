"""ABC: attention to a few slots that every position writes to.

Source: Peng et al., "ABC: Attention with Bounded-memory Control", ACL 2022, arXiv:2110.02488; the
parametrisation of CAB, ICML 2023 (control vectors shared by the heads, one set for the keys and
one for the values).
Departs from CAB's code: its causal form leaves out the sum over earlier positions.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.running_softmax import RunningSoftmax


class AbcAttention(MultiHeadAttention):
    """softmax(Q K~^T / sqrt D) V~ with K~ = softmax(K W_k)^T K and V~ = softmax(V W_v)^T V.

    The inner softmax is over positions: over all of them, or in the causal self pattern over those
    up to the query's.

    Args:
        num_slots: Number of slots, the columns of W_k and W_v.
    """

    patterns = frozenset(Pattern)
    drops_weights = True
    full_precision = True

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, num_slots: int, **common: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if num_slots < 1:
            self._fail(f"num_slots must be positive, got {num_slots}")
        self.key_control = nn.Parameter(torch.empty(self.head_dim, num_slots))
        self.value_control = nn.Parameter(torch.empty(self.head_dim, num_slots))
        for control in (self.key_control, self.value_control):
            nn.init.xavier_uniform_(control, gain=2**-0.5)  # CAB's

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
        dropout = self.dropout if self.training else 0.0
        if self.pattern is not Pattern.CAUSAL_SELF:
            slots = self.absorb({}, k, v, key_padding_mask=key_padding_mask)
            return F.scaled_dot_product_attention(q, slots["k"], slots["v"], dropout_p=dropout)
        key_logits = k @ self.key_control.to(k.dtype)
        value_logits = v @ self.value_control.to(v.dtype)
        if key_padding_mask is not None:
            padding = key_padding_mask[:, None, :, None]
            key_logits = key_logits.masked_fill(padding, -torch.inf)
            value_logits = value_logits.masked_fill(padding, -torch.inf)
        scores = RunningSoftmax(key_logits).scores(q, k) * self.head_dim**-0.5
        weights = F.dropout(scores.softmax(dim=-1), dropout)
        return RunningSoftmax(value_logits).read(weights, v)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep the slots (B, H, R, D) of keys and values, and the log of their weight (B, H, R)."""
        new: dict[str, Tensor] = {}
        for name, x, control in (("k", k, self.key_control), ("v", v, self.value_control)):
            slots, log_weight = _slots(x, x @ control.to(x.dtype), key_padding_mask)
            if memory:
                total = torch.logaddexp(memory[f"{name}_log_weight"], log_weight)
                old_share = (memory[f"{name}_log_weight"] - total).exp()[..., None]
                slots = old_share * memory[name] + (1.0 - old_share) * slots
                log_weight = total
            new |= {name: slots, f"{name}_log_weight": log_weight}
        return new

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the slots."""
        return F.scaled_dot_product_attention(q, memory["k"], memory["v"])

    def memory_elements(self, length: int) -> int:
        """R slots of keys and of values, and a weight for each: 2 R (E + H)."""
        num_slots = self.key_control.shape[1]
        return 2 * num_slots * (self.embed_dim + self.num_heads)


def _slots(x: Tensor, logits: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Means of x (B, H, N, D) weighted by softmax(logits (B, H, N, R)) over N, and its log sum."""
    if padding_mask is not None:
        padding = padding_mask[:, None, :, None]
        # Not -inf: a sample of padding alone would have no softmax. Its weights are zero below.
        logits = logits.masked_fill(padding, -1e30)
        weights = logits.softmax(dim=-2).masked_fill(padding, 0.0)
    else:
        weights = logits.softmax(dim=-2)
    return weights.mT @ x, logits.logsumexp(dim=-2)
