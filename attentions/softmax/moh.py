"""Mixture-of-head attention (MoH): each token weighs the heads, and leaves some out.

Source: Jin et al., "MoH: Multi-Head Attention as Mixture-of-Head Attention", 2024,
arXiv:2410.11842, and the authors' code for images.
Departs from it: padding does not count in the balance loss. As in the authors' training code, heads
that a token leaves out are computed all the same.

Shapes: B batch, H heads, M query length, N context length, D head_dim, E embed_dim.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.growing import append
from attentions.functional.masked import masked_attention
from attentions.functional.precision import in_full


class RoutedQuery(nn.Module):
    """W_Q x, and beside it the router's logits W x, as many whole heads as they need.

    Args:
        embed_dim: E.
        num_logits: Rows of W.
        head_dim: The result is E + num_logits wide, rounded up to a multiple of this.
    """

    def __init__(self, embed_dim: int, num_logits: int, head_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.router = nn.Linear(embed_dim, num_logits, bias=False)
        nn.init.xavier_uniform_(self.proj.weight, gain=2**-0.5)
        nn.init.zeros_(self.proj.bias)
        nn.init.normal_(self.router.weight, std=0.02)
        self.short = -num_logits % head_dim

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, E) to (B, L, E + num_logits + padding)."""
        return torch.cat([self.proj(x), F.pad(self.router(x), (0, self.short))], dim=-1)


class MixtureOfHeadAttention(MultiHeadAttention):
    """The heads of softmax attention, each times a gate that depends on the query's token x.

    The first heads are shared by all tokens: their gates are num_shared softmax(W_s x). Of the
    others, the routed ones, the `num_active` of the largest probabilities p = softmax(W_r x) have
    gates num_active p / (the sum of those p), and the rest zero. Both kinds are weighed against
    each other by 2 softmax(W_h x).

    In training `auxiliary_loss` holds the load-balancing loss of the last pass: `balance_weight`
    times `num_active` where all routed heads are chosen alike often, and more where few are. The
    task adds its mean over the layers, as the authors do.

    Args:
        num_shared: Number of shared heads; None for half of all.
        num_active: Number of routed heads that a token uses; None for a quarter of all, at least 1.
        balance_weight: Of the load-balancing loss.
    """

    patterns = frozenset(Pattern)
    drops_weights = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        num_shared: int | None,
        num_active: int | None,
        balance_weight: float = 0.01,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        self.num_shared = num_heads // 2 if num_shared is None else num_shared
        self.num_active = max(1, num_heads // 4) if num_active is None else num_active
        self.num_routed = num_heads - self.num_shared
        if not 1 <= self.num_shared < num_heads:
            self._fail(f"num_shared must be in [1, num_heads = {num_heads}), got {self.num_shared}")
        if not 1 <= self.num_active <= self.num_routed:
            self._fail(
                f"num_active must be in [1, {self.num_routed} heads that are not shared], "
                f"got {self.num_active}"
            )
        self.num_logits = num_heads + 2  # W_s, W_r and W_h
        self.q_proj = RoutedQuery(embed_dim, self.num_logits, self.head_dim)
        self.balance_weight = balance_weight

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`; q has the router's logits behind its heads."""
        q, logits = q.tensor_split([self.num_heads], dim=1)
        heads = masked_attention(
            q,
            k,
            v,
            None if key_padding_mask is None else ~key_padding_mask[:, None, None, :],
            is_causal=self.pattern is Pattern.CAUSAL_SELF,
            dropout=self.dropout if self.training else 0.0,
        )
        gates, probability, chosen = self._route(logits)
        self.auxiliary_loss = None
        if self.training:
            imbalance = self._imbalance(probability, chosen, query_padding_mask)
            self.auxiliary_loss = self.balance_weight * imbalance
        return heads * gates.to(heads.dtype)

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
        return append(memory, position, key_padding_mask, k=k, v=v)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """One row of softmax per query and head, times the gates."""
        q, logits = q.tensor_split([self.num_heads], dim=1)
        length = None if self.pattern.is_cross else position + q.shape[-2]
        heads = masked_attention(
            q,
            memory["k"][:, :, :length],
            memory["v"][:, :, :length],
            ~memory["padding"][:, None, None, :] if "padding" in memory else None,
        )
        return heads * self._route(logits)[0].to(heads.dtype)

    def memory_elements(self, length: int) -> int:
        """All keys and values: 2 N E."""
        return self.num_kv(length)

    def _route(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gates of all heads (B, H, M, 1).

        And of the routed heads, (B, M, heads): their probabilities, and one where chosen or zero.
        """
        logits = logits.transpose(1, 2).flatten(-2)[..., : self.num_logits]
        logits = in_full(logits)
        parts = logits.split([self.num_shared, self.num_routed, 2], dim=-1)
        shared, probability, kinds = (part.softmax(dim=-1) for part in parts)
        best = probability.topk(self.num_active, dim=-1).indices
        chosen = torch.zeros_like(probability).scatter(-1, best, 1.0)
        routed = probability * chosen
        routed = routed / routed.sum(dim=-1, keepdim=True)
        weighed = [
            2.0 * kinds[..., :1] * self.num_shared * shared,
            2.0 * kinds[..., 1:] * self.num_active * routed,
        ]
        return torch.cat(weighed, dim=-1).mT[..., None], probability, chosen

    def _imbalance(
        self, probability: Tensor, chosen: Tensor, query_padding_mask: Tensor | None
    ) -> Tensor:
        """The sum over routed heads of how probable and how often chosen, times their number."""
        counts = torch.ones_like(probability[..., :1])
        if query_padding_mask is not None:
            counts = counts.masked_fill(query_padding_mask[..., None], 0.0)
        num_tokens = counts.sum().clamp(min=1.0)
        mean_probability = (probability * counts).sum(dim=(0, 1)) / num_tokens
        how_often = (chosen * counts).sum(dim=(0, 1)) / num_tokens
        return self.num_routed * (mean_probability * how_often).sum()
