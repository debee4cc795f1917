"""Attentions that take a sequence as it comes: recurrences and convolutions, without `mix`."""

import torch
from torch import Tensor

from attentions.base import Attention, State


class StreamAttention(Attention):
    """Decodes by one method, `decode`: a first part of any length, or one token more."""

    def decode(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """Answer a query (B, M, E); M is 1 unless nothing was answered before."""
        raise NotImplementedError(f"{type(self).__name__} has no decoding form")

    @torch.no_grad()
    def init_state(
        self,
        batch_size: int,
        context: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> State:
        """See `Attention.init_state`; one that reads a context writes its own."""
        self._check_decoding(batch_size, context, key_padding_mask)
        return State()

    @torch.no_grad()
    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.step`."""
        self._check_step(query)
        return self.decode(query, state)

    @torch.no_grad()
    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.prefill`."""
        self._check_prefill(query, state)
        return self.decode(query, state)
