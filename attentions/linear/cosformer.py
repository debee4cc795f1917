"""cosFormer: rectified kernel attention, re-weighted by a cosine of the distance.

Source: Qin et al., "cosFormer: Rethinking Softmax in Attention", ICLR 2022, arXiv:2202.08791,
section 3.3. The constant M of the cosine is the longer length of each sample without its padding
in the noncausal patterns (as in the paper's code, but there with padding), and `max_len` in the
causal ones: with the length so far, every new token would change the earlier outputs.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.chunks import unpadded_length
from attentions.functional.scan import causal_scan


class CosformerAttention(MultiHeadAttention):
    """Attention with weights relu(q_i) . relu(k_j) cos(pi (i - j) / 2M), divided by their sum.

    The causal patterns need `max_len`, and refuse longer inputs.

    Args:
        eps: Smallest divisor, so that a query whose weights are all zero returns zero.
    """

    patterns = frozenset(Pattern)
    backends: ClassVar = {"fla": frozenset({Pattern.CAUSAL_SELF})}
    full_precision = True

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, eps: float = 1e-6, **common: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if self.pattern.is_causal and self.max_len is None:
            self._fail(f"{self.pattern} needs max_len, the M of its cosine, got None")
        self.eps = eps

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
        if self.pattern is Pattern.CAUSAL_CROSS:
            return self.read(q, self.absorb({}, k, v, key_padding_mask=key_padding_mask))
        if self.pattern is Pattern.CAUSAL_SELF:
            longest = self._longest("sequence", q.shape[-2])
        else:
            longest = torch.maximum(
                unpadded_length(q, query_padding_mask), unpadded_length(k, key_padding_mask)
            )[:, None, None, None]
        phi_q, phi_k = _features(q, longest), _features(k, longest)
        if key_padding_mask is not None:
            phi_k = phi_k.masked_fill(key_padding_mask[:, None, :, None], 0.0)
        v1 = F.pad(v, (0, 1), value=1.0)
        if self.pattern is Pattern.CAUSAL_SELF:
            return self._normalise(causal_scan(phi_q, phi_k, v1, backend=self.backend))
        return self._normalise(phi_q @ (phi_k.mT @ v1))

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Add to the sums (B, H, 2 D, D + 1) of features times values."""
        what = "context" if self.pattern.is_cross else "sequence"
        phi_k = _features(k, self._longest(what, position + k.shape[-2]), position)
        if key_padding_mask is not None:
            phi_k = phi_k.masked_fill(key_padding_mask[:, None, :, None], 0.0)
        sums = phi_k.mT @ F.pad(v, (0, 1), value=1.0)
        return {"sums": memory["sums"] + sums if memory else sums}

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """The features of the queries applied to the sums."""
        longest = self._longest("query", position + q.shape[-2])
        return self._normalise(_features(q, longest, position) @ memory["sums"])

    def memory_elements(self, length: int) -> int:
        """The sums and their normaliser: H 2 D (D + 1)."""
        return 2 * self.embed_dim * (self.head_dim + 1)

    def _longest(self, what: str, length: int) -> int:
        assert self.max_len is not None
        if length > self.max_len:
            self._fail(f"{what} of length {length} is longer than max_len = {self.max_len}")
        return self.max_len

    def _normalise(self, sums: Tensor) -> Tensor:
        return sums[..., :-1] / sums[..., -1:].clamp(min=self.eps)


def _features(x: Tensor, longest: Tensor | int, position: int = 0) -> Tensor:
    """relu(x) times sine and cosine of pi i / 2M: (B, H, L, D) from `position` to (B, H, L, 2 D).

    Args:
        longest: M, a number or (1 or B, 1, 1, 1).
    """
    i = torch.arange(position + 1, position + 1 + x.shape[-2], device=x.device, dtype=x.dtype)
    angle = (0.5 * math.pi) * i[:, None] / longest  # (1 or B, 1, L, 1)
    positive = x.relu()
    return torch.cat([positive * angle.sin(), positive * angle.cos()], dim=-1)
