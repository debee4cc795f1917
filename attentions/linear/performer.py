"""Performer (FAVOR+): softmax attention estimated by positive random features, in linear time.

Source: Choromanski et al., "Rethinking Attention with Performers", ICLR 2021, arXiv:2009.14794,
section 2 (positive orthogonal features) and lemma 1.
Departs from it: `eps` is added to the features of the queries alone. The largest feature of a key
is 1 after stabilising, so this keeps the normaliser above zero, and the stabiliser of the keys
then cancels: it cannot leak in the causal patterns. In the paper's code `eps` is passed as 1e-6, is
added to keys as well, and stands beside features of the query that keep exp(-|q'|^2 / 2), so that
it weighs more the longer the query is; here it is relative to the largest feature.
Departs from CAB's code: the normaliser is not clamped, the features are saved with the weights, and
those of training are orthogonal too.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.scan import causal_scan, running_max, stabiliser_decay


class PerformerAttention(MultiHeadAttention):
    """phi(Q) (phi(K)^T V), normalised, with phi(x) = exp(W x' - |x'|^2 / 2) and x' = x / D^(1/4).

    The rows of W, drawn for each head from torch's generator at construction, are a buffer.

    Args:
        num_features: Number of random features R, the rows of W.
        redraw_every: Training passes after which W is drawn anew, as the weights were: from a
            seed and a count that are buffers too. None for never.
        eps: Added to the features of the queries, in proportion to the largest of each.
    """

    patterns = frozenset(Pattern)
    backends: ClassVar = {"fla": frozenset({Pattern.CAUSAL_SELF})}
    full_precision = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        num_features: int,
        redraw_every: int | None = None,
        eps: float = 1e-4,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if num_features < 1:
            self._fail(f"num_features must be positive, got {num_features}")
        if redraw_every is not None and redraw_every < 1:
            self._fail(f"redraw_every must be positive or null, got {redraw_every}")
        self.redraw_every = redraw_every
        self.eps = eps
        self.seed: Tensor
        self.num_passes: Tensor
        self.features: Tensor
        self.register_buffer("seed", torch.randint(2**48, ()))
        self.register_buffer("num_passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("features", torch.empty(num_heads, num_features, self.head_dim))
        self._draw()

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
        if self.training and self.redraw_every is not None:
            self.num_passes += 1
            if self.num_passes % self.redraw_every == 0:
                self._draw()
        if self.pattern is not Pattern.CAUSAL_SELF:
            return self.read(q, self.absorb({}, k, v, key_padding_mask=key_padding_mask))
        log_phi_k = self._log_key_features(k, key_padding_mask)
        top = running_max(log_phi_k.detach().amax(dim=-1), dim=-1)  # (B, H, N)
        phi_k = (log_phi_k - top[..., None]).exp()
        v1 = F.pad(v, (0, 1), value=1.0)
        decay = stabiliser_decay(top)
        phi_q, floor = self._query_features(q)
        sums = causal_scan(phi_q + floor, phi_k, v1, log_decay=decay, backend=self.backend)
        return _normalise(sums)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Add to the sums (B, H, R, D + 1), kept relative to exp(top) with top (B, H, 1, 1)."""
        log_phi_k = self._log_key_features(k, key_padding_mask)
        top = log_phi_k.detach().amax(dim=(-2, -1), keepdim=True).clamp(min=-1e30)
        if memory:
            top = torch.maximum(top, memory["top"])
        phi_k = (log_phi_k - top).exp()
        sums = torch.cat([phi_k.mT @ v, phi_k.sum(dim=-2)[..., None]], dim=-1)
        if memory:
            sums = sums + (memory["top"] - top).exp() * memory["sums"]
        return {"sums": sums, "top": top}

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """phi(q) applied to the sums; `top` cancels."""
        sums = memory["sums"]
        phi_q, floor = self._query_features(q)  # not added: that would be a second such tensor
        return _normalise(phi_q @ sums + floor * sums.sum(dim=-2, keepdim=True))

    def memory_elements(self, length: int) -> int:
        """The sums, their normaliser and their scale: H (R (D + 1) + 1)."""
        num_features = self.features.shape[1]
        return self.num_heads * (num_features * (self.head_dim + 1) + 1)

    def _query_features(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, M, D) to (B, H, M, R), each query's largest being 1, and eps of that (B, H, M, 1).

        |q'|^2 cancels, and so does what is subtracted.
        """
        logits = self._project(q)
        phi = (logits - logits.detach().amax(dim=-1, keepdim=True)).exp()
        return phi, self.eps * phi.amax(dim=-1, keepdim=True)

    def _log_key_features(self, k: Tensor, padding_mask: Tensor | None) -> Tensor:
        """(B, H, N, D) to (B, H, N, R), -inf where the key is padding."""
        half_square = 0.5 * k.square().sum(dim=-1, keepdim=True) / math.sqrt(self.head_dim)
        log_phi = self._project(k) - half_square
        if padding_mask is not None:
            log_phi = log_phi.masked_fill(padding_mask[:, None, :, None], -torch.inf)
        return log_phi

    def _project(self, x: Tensor) -> Tensor:
        return x @ (self.features.to(x.dtype) * self.head_dim**-0.25).mT

    def _draw(self) -> None:
        generator = torch.Generator().manual_seed(int(self.seed) + int(self.num_passes))
        num_heads, num_features, head_dim = self.features.shape
        self.features.copy_(
            orthogonal_features(num_heads, num_features, head_dim, generator=generator)
        )


def _normalise(sums: Tensor) -> Tensor:
    # Only a query without any key has a sum below eps: its output is zero.
    return sums[..., :-1] / sums[..., -1:].clamp(min=1e-30)


def orthogonal_features(
    num_heads: int, num_features: int, head_dim: int, *, generator: torch.Generator
) -> Tensor:
    """Gaussian vectors (num_heads, num_features, head_dim), orthogonal in groups of head_dim.

    Each is a standard normal vector taken alone, so that the estimate stays unbiased: its
    direction is uniform and its length, drawn apart, that of a normal vector.
    """
    num_groups = math.ceil(num_features / head_dim)
    square = torch.randn(num_heads, num_groups, head_dim, head_dim, generator=generator)
    basis, triangle = torch.linalg.qr(square)
    # Without the signs the basis would depend on LAPACK's convention and not be uniform.
    basis = basis * triangle.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    lengths = torch.randn(num_heads, num_features, head_dim, generator=generator).norm(dim=-1)
    return basis.mT.flatten(1, 2)[:, :num_features] * lengths[..., None]
