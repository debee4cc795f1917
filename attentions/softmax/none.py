"""No attention: the control of CAB's "benefit of attention" (section 9.3 of its protocol).

The mixing is removed and the residual connection around it remains, so the output is zero.
"""

import torch
from torch import Tensor

from attentions.base import Pattern, State
from attentions.stream import StreamAttention


class NoAttention(StreamAttention):
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

    def decode(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """Zeros of the query's shape (B, M, E)."""
        return torch.zeros_like(query), State(state.position + query.shape[1])

    def memory_elements(self, length: int) -> int:
        """Nothing."""
        return 0
