"""No attention: the control of CAB's "benefit of attention" (section 9.3 of its protocol).

The mixing is removed and the residual connection around it remains, so the output is zero.
"""

import torch
from torch import Tensor

from attentions.base import Attention, Pattern, State


class NoAttention(Attention):
    """Zero for every query: nothing moves between positions and nothing is learned."""

    patterns = frozenset(Pattern)
    mixes = False

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Zeros of the query's shape (B, M, E)."""
        return torch.zeros_like(query)

    def init_state(
        self,
        batch_size: int,
        context: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> State:
        """An empty state."""
        self._check_decoding(batch_size, context, key_padding_mask)
        return State()

    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """Zeros of the query's shape (B, 1, E)."""
        self._check_step(query)
        return torch.zeros_like(query), State(state.position + 1)

    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """Zeros of the query's shape (B, M, E)."""
        self._check_prefill(query, state)
        return torch.zeros_like(query), State(query.shape[1])
