"""Nyströmformer: the softmax matrix from its columns and rows at a few landmarks.

Source: Xiong et al., "Nyströmformer: A Nyström-based Algorithm for Approximating Self-Attention",
AAAI 2021, arXiv:2102.03902, section 3.2; CAB, ICML 2023, for lengths that are no multiple of the
number of landmarks.
Departs from CAB's code: logits are q.k / sqrt D (there q.k / D); the pseudo-inverse starts from the
largest column sum of each matrix, not of the batch; landmarks are means over what is not padding.
The noncausal cross pattern is ours.

Shapes: B batch, H heads, M query length, N context length, D head_dim, C landmarks.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.masked import masked_attention
from attentions.functional.segments import segment_means, segments
from attentions.functional.short_convolution import head_convolution

_LEAK = "landmarks are means over all queries: a later one would leak"


class NystromAttention(MultiHeadAttention):
    """softmax(Q K~^T) softmax(Q~ K~^T)^+ softmax(Q~ K^T) V, scaled by 1 / sqrt D each.

    Q~ and K~ are the means of C contiguous segments. A sequence of C positions or fewer is attended
    to exactly. In noncausal self a depthwise convolution of V is added; in noncausal cross nothing,
    for there the values have no place beside the queries.

    Args:
        num_landmarks: C, on either side.
        num_iterations: Steps towards the pseudo-inverse.
        conv_kernel: Positions that the convolution sees, odd; one filter per head.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS})
    refuses: ClassVar = {Pattern.CAUSAL_SELF: _LEAK, Pattern.CAUSAL_CROSS: _LEAK}
    full_precision = True  # the pseudo-inverse magnifies what is rounded before it

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        num_landmarks: int,
        num_iterations: int,
        conv_kernel: int,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        for name, value in (("num_landmarks", num_landmarks), ("num_iterations", num_iterations)):
            if value < 1:
                self._fail(f"{name} must be positive, got {value}")
        if conv_kernel < 1 or conv_kernel % 2 == 0:
            self._fail(f"conv_kernel must be odd and positive, got {conv_kernel}")
        self.num_landmarks = num_landmarks
        self.num_iterations = num_iterations
        self.conv = None
        if not self.pattern.is_cross:
            self.conv = nn.Conv2d(
                num_heads, num_heads, (conv_kernel, 1), groups=num_heads, bias=False
            )

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`."""
        visible = None if key_padding_mask is None else ~key_padding_mask[:, None, None]
        if min(q.shape[2], k.shape[2]) <= self.num_landmarks:
            mixed = masked_attention(q, k, v, visible)
        else:
            mixed = self._approximate(q, k, v, visible, query_padding_mask, key_padding_mask)
        if self.conv is None:
            return mixed
        if key_padding_mask is not None:
            v = v.masked_fill(key_padding_mask[:, None, :, None], 0.0)
        return mixed + head_convolution(v, self.conv.weight[:, 0, :, 0].to(v.dtype))

    def _approximate(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        visible: Tensor | None,
        query_padding_mask: Tensor | None,
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        """The product of the three matrices with V, read from right to left."""
        q_segments = segments(query_padding_mask, self.num_landmarks)
        k_segments = segments(key_padding_mask, self.num_landmarks)
        q_landmarks = segment_means(q, self.num_landmarks, q_segments)
        k_landmarks = segment_means(k, self.num_landmarks, k_segments)
        logits = q_landmarks @ k_landmarks.mT * self.head_dim**-0.5
        inverse = pseudo_inverse(logits.softmax(dim=-1), self.num_iterations)
        rows = masked_attention(q_landmarks, k, v, visible)  # (B, H, C, D)
        values, used = inverse @ rows, None
        if k_segments is not None:
            used = k_segments.any(dim=-1)[:, None, None]
            # So few keys that each is a landmark, and some landmarks are empty: softmax over the
            # keys themselves is exact.
            values = torch.where(
                _is_short(k_segments), segment_means(v, self.num_landmarks, k_segments), values
            )
        mixed = masked_attention(q, k_landmarks, values, used)
        if q_segments is not None and self.pattern.is_cross:
            # So few queries that each is a landmark: its row is exact.
            own_row = q_segments.to(rows.dtype).mT[:, None] @ rows
            mixed = torch.where(_is_short(q_segments), own_row, mixed)
        return mixed


def pseudo_inverse(a: Tensor, num_iterations: int) -> Tensor:
    """The Moore-Penrose inverse of matrices (..., C, C) whose rows are positive and sum to 1.

    The iteration of order three of section 3.2; six steps approximate, about twelve converge.
    """
    # A^T over its largest row sum times its largest column sum; the former is 1.
    z = a.mT / a.sum(dim=-2, keepdim=True).amax(dim=-1, keepdim=True)
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for _ in range(num_iterations):
        az = a @ z
        z = 0.25 * z @ (13 * identity - az @ (15 * identity - az @ (7 * identity - az)))
    return z


def _is_short(members: Tensor) -> Tensor:
    """Where no segment has more than one position: bool (B, 1, 1, 1)."""
    return (members.sum(dim=-1) <= 1).all(dim=-1)[:, None, None, None]
