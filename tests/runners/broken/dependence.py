"""What does not read what it must, and a control that reads too much."""

from typing import Any

import torch
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern, State
from attentions.functional.masked import masked_attention
from attentions.linear.linear_elu import LinearAttention


class Zeros(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return torch.zeros_like(query)

    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        return torch.zeros_like(query), State(state.position + 1)

    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        return torch.zeros_like(query), State(query.shape[1])


class HalfZeros(LinearAttention):
    """Dead in the first half: the second would satisfy a test that looks for any dependence."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        place = torch.arange(query.shape[1], device=query.device)
        return super().attend(query, context, **masks) * (2 * place >= len(place))[:, None]


class OneSided(LinearAttention):
    """Causal whatever was asked, as CAB's S4D by default."""

    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.pattern = Pattern.CAUSAL_SELF


class BlindToSource(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return self.out_proj(self.q_proj(query) + 0.0 * self.v_proj(self.k_proj(context)).sum())


class BlindToQuery(LinearAttention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Any) -> Tensor:
        return super().mix(0.0 * q, k, v, **masks)


class MixingControl(LinearAttention):
    """Declares that it moves nothing, and does."""

    mixes = False


class CausalWhereLengthsAgree(LinearAttention):
    """A cross pattern that takes a source as long as its query for the query's own sequence."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Any) -> Tensor:
        if q.shape[2] != k.shape[2] or "causal" not in self.pattern:
            return super().mix(q, k, v, **masks)
        asked, self.pattern = self.pattern, Pattern.CAUSAL_SELF
        try:
            return super().mix(q, k, v, **masks)
        finally:
            self.pattern = asked


class Dilated(MultiHeadAttention):
    """Right: it sees itself and each fortieth position before it."""

    patterns = frozenset({Pattern.CAUSAL_SELF})
    drops_weights = True

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        **rest: Any,
    ) -> Tensor:
        place = torch.arange(q.shape[2], device=q.device)
        distance = place[:, None] - place
        allowed = (distance >= 0) & (distance % 40 == 0)
        if key_padding_mask is not None:
            allowed = allowed & ~key_padding_mask[:, None, None, :]
        return masked_attention(q, k, v, allowed, dropout=self.dropout if self.training else 0.0)


class DeadFarOut(LinearAttention):
    """Nothing beyond the first 128 positions."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        place = torch.arange(query.shape[1], device=query.device)
        return super().attend(query, context, **masks) * (place < 128)[:, None]


class BlindInTraining(LinearAttention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Any) -> Tensor:
        return super().mix(0.0 * q if self.training else q, k, v, **masks)
