"""Mechanisms with one flaw each, which `attnbench verify` must find and name.

All but the flaw is right: it is linear attention, whose parallel and step forms are tested.
"""

import random
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Attention, Pattern, State, UnsupportedPattern
from attentions.linear.linear_elu import LinearAttention

CHUNK = 32


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


class Leaking(LinearAttention):
    """Adds to the right output what `leak` makes of the query (B, M, E)."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) + self.leak(query)

    def leak(self, query: Tensor) -> Tensor:
        raise NotImplementedError


class LeakAcrossChunkBorder(Leaking):
    """The last output of a chunk sees the first query of the next."""

    chunk = CHUNK

    def leak(self, query: Tensor) -> Tensor:
        following = F.pad(query, (0, 0, 0, 1))[:, 1:]
        place = torch.arange(query.shape[1], device=query.device)
        return following * (place % self.chunk == self.chunk - 1)[:, None]


class LeakAcrossLongChunkBorder(LeakAcrossChunkBorder):
    chunk = 256


class LeakInsideChunk(Leaking):
    """Every output of a chunk sees the whole chunk."""

    def leak(self, query: Tensor) -> Tensor:
        return torch.cat([c.mean(1, True).expand_as(c) for c in query.split(CHUNK, dim=1)], dim=1)


class LeakInFirstHalf(Leaking):
    """CAB's test compares from the middle on."""

    def leak(self, query: Tensor) -> Tensor:
        half = query.shape[1] // 2
        return F.pad(
            query[:, half - 1 : half].expand(-1, half, -1), (0, 0, 0, query.shape[1] - half)
        )


class QueryMean(Leaking):
    """Pools over the queries, as landmarks do: honest in the noncausal patterns only."""

    def leak(self, query: Tensor) -> Tensor:
        return query.mean(dim=1, keepdim=True)

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
        pooled = (weights * query).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
        return LinearAttention.attend(self, query, context, **rest) + pooled


class FaintLeak(Leaking):
    """As a maximum over all queries leaks through an epsilon in the normaliser."""

    def leak(self, query: Tensor) -> Tensor:
        return 1e-7 * query.amax(dim=1, keepdim=True)


class LeakInTraining(Leaking):
    def leak(self, query: Tensor) -> Tensor:
        return query.mean(dim=1, keepdim=True) if self.training else torch.zeros_like(query)


class GatedLeak(Leaking):
    """A gate that starts at zero hides the leak until training opens it."""

    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.gate = nn.Parameter(torch.zeros(()))

    def leak(self, query: Tensor) -> Tensor:
        return self.gate * query.mean(dim=1, keepdim=True)


class PresentLength(LinearAttention):
    """A constant from the present length, as cosFormer's M in CAB."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) * (1 + query.shape[1] / 100)


class RoundsByLength(LinearAttention):
    """Right: its sums are taken in an order that depends on the length."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        out = super().attend(query, context, **masks)
        total = out.sum(dim=1, keepdim=True)
        return total - (total - out)


class IgnoresPadding(LinearAttention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Any) -> Tensor:
        return super().mix(q, k, v)


class MasksAnotherSample(LinearAttention):
    """CAB tiles masks head-major where rows are sample-major: they land on other samples."""

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        **rest: Any,
    ) -> Tensor:
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.roll(1, dims=0)
        return super().mix(q, k, v, key_padding_mask=key_padding_mask)


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


class MixesSamples(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        out = super().attend(query, context, **masks)
        return out + 0.1 * (out - out.mean(dim=0, keepdim=True))


class Noisy(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) + 1e-3 * torch.randn_like(query)


class KeepsACounter(LinearAttention):
    """In training its draws come from a count of calls that no checkpoint holds."""

    calls = 0

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        self.calls += self.training
        return super().attend(query, context, **masks) * (1 + self.calls / 10)


class SavesItsCounter(LinearAttention):
    """Right: what it keeps from call to call in training, a checkpoint holds."""

    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.register_buffer("calls", torch.zeros(()))
        self.calls: Tensor

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        if not self.training:
            return super().attend(query, context, **masks)
        self.calls += 1
        return super().attend(query, context, **masks) * (1 + self.calls / 10)


class PythonRandom(LinearAttention):
    """Its random features come from outside torch's generator."""

    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.register_buffer("features", torch.tensor(random.random()))
        self.features: Tensor

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) * (1 + self.features)

    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        out, state = super().step(query, state)
        return out * (1 + self.features), state

    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        out, state = super().prefill(query, state)
        return out * (1 + self.features), state


class UnsavedFeatures(PythonRandom):
    """Random features drawn well, but not saved, as CAB's Performer."""

    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.register_buffer("features", torch.rand(()), persistent=False)


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


class RootOfZero(LinearAttention):
    """Its value at zero is right, its gradient there is not a number."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) + 0.0 * query.abs().sqrt()


class UntrainedParameter(LinearAttention):
    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.scale = nn.Parameter(torch.ones(()))


class Overflows(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) * query.exp() / query.exp()


class Overwrites(LinearAttention):
    """Clears the padding of its argument, in place."""

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        **rest: Any,
    ) -> Tensor:
        if query_padding_mask is not None:
            query.data.masked_fill_(query_padding_mask[..., None], 0.0)
        return super().attend(query, context, **rest)


class IgnoresDropout(LinearAttention):
    drops_weights = True


class DropsInEvaluation(LinearAttention):
    """Seeded, so that calls agree."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) * (1 - self.dropout)


class RefusesDropout(LinearAttention):
    """Some kernels have none: no flaw."""

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, dropout: float = 0.0, **rest: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **rest)
        if dropout:
            self._fail(f"dropout must be 0, got {dropout}")


class SwallowsSettings(LinearAttention):
    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, eps: float = 1e-6, **rest: Any
    ) -> None:
        common = {name: rest[name] for name in ("dropout", "max_len", "grid") if name in rest}
        super().__init__(embed_dim, num_heads, pattern, eps=eps, **common)


class ClaimsWhatItRefuses(LinearAttention):
    """Its class claims what its constructor refuses: no flaw, where the settings decide."""

    def __init__(self, embed_dim: int, num_heads: int, pattern: Pattern, **common: Any) -> None:
        if pattern.is_cross:
            reason = "its part is not made for two sequences"
            raise UnsupportedPattern("ClaimsWhatItRefuses", pattern, self.patterns, reason)
        super().__init__(embed_dim, num_heads, pattern, **common)


class RefusesWhenCalled(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        raise UnsupportedPattern("RefusesWhenCalled", self.pattern, self.patterns)


class ServesUnclaimed(LinearAttention):
    """Claims one pattern, builds in all."""

    patterns = frozenset({Pattern.NONCAUSAL_SELF})

    def __init__(self, *args: Any, **common: Any) -> None:
        object.__setattr__(self, "patterns", frozenset(Pattern))
        super().__init__(*args, **common)


class Raises(LinearAttention):
    """An exception where the sequence is longer than its block."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        if query.shape[1] > 100:
            raise IndexError("block 7 of 6")
        return super().attend(query, context, **masks)


class WrongShape(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks)[:, :-1]


class Bloated(LinearAttention):
    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.extra = nn.Linear(self.embed_dim, 4 * self.embed_dim)

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) + self.extra(query).mean(-1, keepdim=True)


class MixingControl(LinearAttention):
    """Declares that it moves nothing, and does."""

    mixes = False


class NarrowInside(LinearAttention):
    """Right, but computes in float32 whatever it is given."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Any) -> Tensor:
        return super().mix(q.float(), k.float(), v.float(), **masks).to(q.dtype)
