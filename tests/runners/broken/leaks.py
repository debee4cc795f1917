"""What reads later queries."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.linear.linear_elu import LinearAttention

CHUNK = 32


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
    chunk = 128


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


class NoMaskWithDropout(LinearAttention):
    """As a kernel without dropout is left for another, whose mask is forgotten."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Any) -> Tensor:
        if self.training and self.dropout:
            phi_q, phi_k = F.elu(q) + 1, F.elu(k) + 1
            return phi_q @ (phi_k.mT @ v) / (phi_q @ phi_k.sum(dim=-2)[..., None])
        return super().mix(q, k, v, **masks)


class LeakInLongTraining(LeakInTraining):
    def leak(self, query: Tensor) -> Tensor:
        return super().leak(query) if query.shape[1] > 256 else torch.zeros_like(query)


class LeakBetweenBorders(Leaking):
    """Outputs 258 to 318 see each other: no cut at a multiple of 64 or beside one parts them."""

    def leak(self, query: Tensor) -> Tensor:
        place = torch.arange(query.shape[1], device=query.device)
        inside = ((place > 257) & (place < 319))[:, None]
        return inside * (inside * query).mean(dim=1, keepdim=True)


class LeakInHalf(Leaking):
    def leak(self, query: Tensor) -> Tensor:
        mean = query.mean(dim=1, keepdim=True)
        return mean if query.dtype.itemsize == 2 else torch.zeros_like(query)


class LeakUnderAutocast(Leaking):
    def leak(self, query: Tensor) -> Tensor:
        mean = query.mean(dim=1, keepdim=True)
        return mean if torch.is_autocast_enabled("cpu") else torch.zeros_like(query)
