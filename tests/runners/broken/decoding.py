"""What decodes otherwise than it trains, or not at all."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Attention, Pattern, State
from attentions.linear.linear_elu import LinearAttention


class DriftsInSteps(LinearAttention):
    """Its step form is right for a hundred tokens."""

    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        out, state = super().step(query, state)
        return out * (1 + 1e-3 * max(0, state.position - 100)), state


class ForgetsInPrefill(LinearAttention):
    """The state after a prompt lacks its last token."""

    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        out, after = super().prefill(query, state)
        if query.shape[1] > 1 and not self.pattern.is_cross:
            _, short = super().prefill(query[:, :-1], state)
            after = State(after.position, short.tensors)
        return out, after


class StateByHead(LinearAttention):
    """Its memory has the heads first, so that reordering a beam reorders heads."""

    def absorb(self, memory: Mapping[str, Tensor], *args: Any, **rest: Any) -> dict[str, Tensor]:
        memory = {name: t.transpose(0, 1) for name, t in memory.items()}
        return {
            name: t.transpose(0, 1) for name, t in super().absorb(memory, *args, **rest).items()
        }

    def read(self, q: Tensor, memory: Mapping[str, Tensor], **rest: Any) -> Tensor:
        return super().read(q, {name: t.transpose(0, 1) for name, t in memory.items()}, **rest)


class NoDecoding(Attention):
    """The least that a user writes: the parallel form alone."""

    patterns = frozenset({Pattern.CAUSAL_SELF})

    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.proj = nn.Linear(self.embed_dim, self.embed_dim)

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        **rest: Any,
    ) -> Tensor:
        padding = (
            torch.zeros_like(query[..., 0]) if query_padding_mask is None else query_padding_mask
        )
        weights = (1 - padding.to(query.dtype))[..., None]
        mean = (weights * self.proj(query)).cumsum(1) / weights.cumsum(1).clamp(min=1)
        return F.dropout(mean, self.dropout, self.training)


class OtherStateBehindPrompt(LinearAttention):
    """Behind a prompt its memory has the heads first; the next step turns it."""

    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        out, after = super().prefill(query, state)
        return out, State(
            after.position, {f"turned_{n}": _turned(t) for n, t in after.tensors.items()}
        )

    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        tensors = {
            n.removeprefix("turned_"): _turned(t) if n.startswith("turned_") else t
            for n, t in state.tensors.items()
        }
        return super().step(query, State(state.position, tensors))


def _turned(memory: Tensor) -> Tensor:
    return memory.transpose(0, 1)


class ForgetsAtBlockEnd(LinearAttention):
    """Behind a prompt, its memory is halved where a block of 64 ends."""

    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        out, after = super().prefill(query, state)
        mark = {"prompted": torch.ones(len(query), 1)}
        return out, State(after.position, {**after.tensors, **mark})

    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        tensors = dict(state.tensors)
        mark = {n: tensors.pop(n) for n in ("prompted",) if n in tensors}
        out, after = super().step(query, State(state.position, tensors))
        if mark and after.position % 64 == 0:
            out = out / 2
        return out, State(after.position, {**after.tensors, **mark})


class TakesMaskForLength(LinearAttention):
    """Decoding counts the padding of the context, and takes it for a tail."""

    def init_state(
        self,
        batch_size: int,
        context: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> State:
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.sort(dim=1).values
        return super().init_state(batch_size, context, key_padding_mask)
