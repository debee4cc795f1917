"""What depends on the size or the type of its numbers."""

from typing import Any

import torch
from torch import Tensor

from attentions.linear.linear_elu import LinearAttention


class Overflows(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) * query.exp() / query.exp()


class NarrowInside(LinearAttention):
    """Right, but computes in float32 whatever it is given."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Any) -> Tensor:
        return super().mix(q.float(), k.float(), v.float(), **masks).to(q.dtype)


class NarrowOutput(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks).float()


class FailsInHalf(LinearAttention):
    """A constant of its own in float32 does not meet half precision."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        kind = torch.promote_types(query.dtype, torch.float32)
        out = super().attend(query, context, **masks)
        return torch.bmm(out, torch.eye(self.embed_dim, dtype=kind).expand(len(out), -1, -1))


class FailsUnderAutocast(LinearAttention):
    """Puts what autocast has narrowed into rows of the type that came in."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        out = super().attend(query, context, **masks)
        rows = torch.zeros_like(query)
        rows[torch.ones_like(query[..., 0]).bool()] = out.flatten(0, 1)
        return rows


class OtherInHalf(LinearAttention):
    """As a kernel of another scale."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Any) -> Tensor:
        out = super().mix(q, k, v, **masks)
        return out * 1.5 if self.out_proj.weight.dtype.itemsize == 2 else out
