"""What does not learn as it should."""

from typing import Any

import torch
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.linear.linear_elu import LinearAttention


class RootOfZero(LinearAttention):
    """Its value at zero is right, its gradient there is not a number."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) + 0.0 * query.abs().sqrt()


class UntrainedParameter(LinearAttention):
    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.scale = nn.Parameter(torch.ones(()))


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


class OtherTemperatureInTraining(LinearAttention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Any) -> Tensor:
        return super().mix(2 * q if self.training else q, k, v, **masks)


class DeclaresItsNoise(LinearAttention):
    """Right: it says that it trains with noise."""

    trains_otherwise = "noise is added to the values"

    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Any) -> Tensor:
        noise = torch.randn_like(v) if self.training else 0.0
        return super().mix(q, k, v + noise, **masks)


class IdleParameter(LinearAttention):
    """It is read, and multiplied by zero."""

    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.scale = nn.Parameter(torch.ones(()))

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) + 0.0 * self.scale


class FrozenParameter(LinearAttention):
    """Right: some weights are not to be trained."""

    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.k_proj.requires_grad_(False)


class SteepWhereLarge(LinearAttention):
    """The branch that is not taken overflows, and its gradient times zero is not a number."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        own = torch.where(query.abs() < 20, query.exp(), torch.zeros_like(query))
        return super().attend(query, context, **masks) + 1e-3 * own
