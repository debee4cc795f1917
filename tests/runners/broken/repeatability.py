"""What gives other numbers for the same inputs and weights."""

import random
from typing import Any

import torch
from torch import Tensor

from attentions.base import State
from attentions.linear.linear_elu import LinearAttention


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

    trains_otherwise = "its outputs grow with the count of calls"

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


class MixesSamplesInTraining(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        out = super().attend(query, context, **masks)
        return out - 0.1 * out.mean(dim=0, keepdim=True) if self.training else out


class SeedsAnew(LinearAttention):
    """Its dropout falls alike at each call, and so does all that is drawn after it."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        torch.manual_seed(0)
        return super().attend(query, context, **masks)


class SeedsAtConstruction(LinearAttention):
    """All models that hold it start from the same weights behind it."""

    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        torch.manual_seed(0)


class CachesWeights(LinearAttention):
    """Its first call fixes what it computes with."""

    cached: Tensor | None = None

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        if self.cached is None:
            self.cached = self.q_proj.weight.clone()
        return super().attend(query, context, **masks) + query @ self.cached.mT
