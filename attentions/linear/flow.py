"""Flow-attention: linear attention in which keys compete for a flow that is conserved.

Source: Wu et al., "Flowformer: Linearizing Transformers with Conservation Flows", ICML 2022,
arXiv:2202.06258, and the authors' code, whose causal form is not the noncausal one on each prefix:
it freezes what key j sends at position j, and multiplies flows by the number of positions so far.
Departs from it: padding takes no part and is not counted, and each sum is kept for decoding.
Before the competition the code (61f5d8c) clamps what leaves a key: at 1 in its core file and for
images, at 5 for language, at 10 for reinforcement learning. On average that flow is the number of
queries over that of keys: 1 in the self patterns. In the cross pattern, which the code has but no
experiment, a clamp at 1 would cut all keys to the same where queries are many: so there is none.

Shapes: B batch, H heads, M query length, N context length, D head_dim.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern, State
from attentions.functional.scan import causal_scan
from attentions.stream import StreamAttention

_GREATEST_CLAMP = 50  # its exponential is summed, in float32, over all keys so far


class FlowAttention(StreamAttention, MultiHeadAttention):
    """allocation * (phi(Q) / incoming) phi(K)^T (competition * V), with phi the sigmoid.

    Queries are sinks and keys are sources of a flow with capacities phi(q_i) . phi(k_j). With the
    outgoing flow of each source set to one, what arrives at a sink gates it (allocation); with the
    incoming flow of each sink set to one, what leaves a source is its weight (competition).

    Args:
        eps: Added to both sides of each flow, so that no flow is zero.
        clamp: The most that may leave a key; None for 1 in the self patterns, where it is 1 on
            average, and for no limit in noncausal cross.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_CROSS})
    refuses: ClassVar = {
        Pattern.CAUSAL_CROSS: "keys compete for the flow to all queries: a later one would leak"
    }
    backends: ClassVar = {"fla": frozenset({Pattern.CAUSAL_SELF})}
    full_precision = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        eps: float = 1e-6,
        clamp: float | None = None,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if eps <= 0:
            self._fail(f"eps must be positive, got {eps}")
        if clamp is not None and not 0 < clamp <= _GREATEST_CLAMP:
            self._fail(f"clamp must be null or from 0 to {_GREATEST_CLAMP}, got {clamp}")
        self.eps = eps
        self.clamp = (torch.inf if self.pattern.is_cross else 1.0) if clamp is None else clamp

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
            return self._causal(q, k, v, {}, 0, key_padding_mask)[0]
        q, num_queries = _capacities(q, query_padding_mask)
        k, num_keys = _capacities(k, key_padding_mask)
        incoming = self._flow(q, k.sum(dim=2, keepdim=True))  # (B, H, M, 1)
        outgoing = self._flow(k, q.sum(dim=2, keepdim=True))  # (B, H, N, 1)
        arrives = self._flow(q, (1.0 / outgoing).mT @ k)
        leaves = self._flow(k, (1.0 / incoming).mT @ q).clamp(max=self.clamp)
        if key_padding_mask is not None:
            leaves = leaves.masked_fill(key_padding_mask[:, None, :, None], -1e30)
        competition = leaves.softmax(dim=2) * num_keys
        allocation = (arrives * num_queries / num_keys).sigmoid()
        return allocation / incoming * (q @ (k.mT @ (competition * v)))

    def decode(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StreamAttention.decode`; here the queries too go into the memory."""
        q, (k, v) = self._heads(self.q_proj, query), self._keys_and_values(query)
        with self._precision(q):
            mixed, memory = self._causal(q, k, v, state.tensors, state.position, None)
        return self._merge(mixed), State(state.position + query.shape[1], memory)

    def memory_elements(self, length: int) -> int:
        """The sums, four of keys and queries, and their weight: H (D D + 4 D + 1)."""
        return self.embed_dim * (self.head_dim + 4) + self.num_heads

    def _causal(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        memory: Mapping[str, Tensor],
        position: int,
        padding_mask: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The outputs (B, H, M, D) of positions from `position` on, and the sums up to the last.

        Args:
            memory: The sums before: of phi(k), phi(q) and their shares (B, H, 1, D), of the
                competing weights (B, H, 1, 1), and of phi(k) v^T (B, H, D, D). {} starts anew.
        """
        q, _ = _capacities(q, padding_mask)
        k, _ = _capacities(k, padding_mask)
        count = torch.arange(position + 1, position + q.shape[2] + 1, device=q.device)[:, None]
        if padding_mask is not None:
            count = (~padding_mask).cumsum(dim=-1).clamp(min=1)[:, None, :, None]
        after: dict[str, Tensor] = {}

        def so_far(name: str, x: Tensor) -> Tensor:
            sums = x.cumsum(dim=2)
            if memory:
                sums = sums + memory[name]
            after[name] = sums[:, :, -1:]
            return sums

        incoming = self._flow(q, so_far("k", k)) / count
        outgoing = self._flow(k, so_far("q", q)) / count
        arrives = self._flow(q, so_far("k_share", k / outgoing)) / count
        leaves = self._flow(k, so_far("q_share", q / incoming)) / count
        weight = leaves.clamp(max=self.clamp).exp()
        if padding_mask is not None:
            weight = weight.masked_fill(padding_mask[:, None, :, None], 0.0)
        # One weight alone is more than 1; a smaller sum is that of padding alone.
        competition = count * weight / so_far("weight", weight).clamp(min=0.1)
        sent = competition * v
        q = q / (incoming * count)
        received = causal_scan(q, k, sent, backend="torch" if memory else self.backend)
        after["kv"] = k.mT @ sent
        if memory:
            received = received + q @ memory["kv"]
            after["kv"] = after["kv"] + memory["kv"]
        return arrives.sigmoid() * received, after

    def _flow(self, at: Tensor, total: Tensor) -> Tensor:
        """What passes between each of `at` (B, H, L, D) and its sum over the other side.

        Args:
            total: (B, H, L, D), or (B, H, 1, D) for the same sum at each.

        Returns:
            (B, H, L, 1).
        """
        total = total + self.eps
        if total.shape[2] == 1:
            return at @ total.mT + self.eps * total.sum(dim=-1, keepdim=True)
        return ((at + self.eps) * total).sum(dim=-1, keepdim=True)


def _capacities(x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor | int]:
    """phi(x), zero for padding; and how many are not padding: (B, 1, 1, 1), or one number."""
    if padding_mask is None:
        return x.sigmoid(), x.shape[2]
    padding = padding_mask[:, None, :, None]
    return x.sigmoid().masked_fill(padding, 0.0), (~padding).sum(dim=2, keepdim=True).clamp(min=1)
