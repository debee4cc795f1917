"""What reads padding."""

from typing import Any

import torch
from torch import Tensor

from attentions.linear.linear_elu import LinearAttention


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


class IgnoresPaddingInTraining(LinearAttention):
    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        **rest: Any,
    ) -> Tensor:
        return super().mix(q, k, v, key_padding_mask=None if self.training else key_padding_mask)


class IgnoresPaddingWhereLong(LinearAttention):
    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        **rest: Any,
    ) -> Tensor:
        is_long = k.shape[2] > 300
        return super().mix(q, k, v, key_padding_mask=None if is_long else key_padding_mask)


class QueryMaskForKeys(LinearAttention):
    """Where the shapes agree nothing tells that it is the wrong mask."""

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        if query_padding_mask is not None and q.shape[2] == k.shape[2]:
            key_padding_mask = query_padding_mask
        return super().mix(q, k, v, key_padding_mask=key_padding_mask)


class NanInPadding(LinearAttention):
    """Outputs of padded queries mean nothing, but they must be finite."""

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        **rest: Any,
    ) -> Tensor:
        out = super().attend(query, context, **rest)
        if query_padding_mask is None:
            return out
        return out.masked_fill(query_padding_mask[..., None], torch.nan)
