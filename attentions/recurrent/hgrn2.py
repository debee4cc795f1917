"""HGRN2: a gated recurrence whose keys are what its forget gates let go.

Source: Qin et al., "HGRN2: Gated Linear RNNs with State Expansion", COLM 2024, arXiv:2404.07904,
and the authors' code (hgru2-pytorch): the layer of its language model; the noncausal pattern sums
both directions, as its bidirectional layer does. In the cross patterns the context is written once
and each query reads the final state, in which what was written last weighs most.
Departs from them: the lower bounds of the gates start as theirs, but each layer learns its own; a
softmax over the layers makes theirs rise with depth. A padded position is passed over.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.gated_scan import gated_scan, gated_state


class Hgrn2Attention(MultiHeadAttention):
    """RMS(silu(q_t) S_t), with S_t = diag(g_t) S_{t-1} + (1 - g_t) v_t^T and no output gate.

    g_t = b + (1 - b) sigmoid(W_f x_t), where k_proj gives W_f and b is learned, feature by feature,
    but for the first layer, where it is 0. The norm is over the heads together. The paper's state
    expansion is the width of a head; it takes 128.

    Args:
        lower_bound: Where b starts; None for layer / num_layers, the authors', or 0 where that is
            unknown. At 0 it stays.
        eps: Added to the mean square in the norm.
    """

    patterns = frozenset(Pattern)
    backends: ClassVar = {"fla": frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})}
    full_precision = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        lower_bound: float | None = None,
        eps: float = 1e-6,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if lower_bound is None:
            lower_bound = self.layer / self.num_layers if self.num_layers else 0.0
        if not 0.0 <= lower_bound < 1.0:
            self._fail(f"lower_bound must be in [0, 1), got {lower_bound}")
        # The logit of b is `start` + `shift`, so that weight decay draws b to where it started.
        self.start = math.log(lower_bound / (1 - lower_bound)) if lower_bound else -math.inf
        self.shift = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim)) if lower_bound else None
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
        """See `MultiHeadAttention.mix`; k are the logits of the gates."""
        if self.pattern.is_cross:
            return self.read(q, self.absorb({}, k, v, key_padding_mask=key_padding_mask))
        q = F.silu(q)
        k, log_decay = self._keys_and_decay(k, key_padding_mask)
        both_ways = self.pattern is Pattern.NONCAUSAL_SELF
        mixed = gated_scan(q, k, v, log_decay, both_ways=both_ways, backend=self.backend)
        if both_ways:  # the authors have the own in both directions
            mixed = mixed + (q * k).sum(dim=-1, keepdim=True) * v
        return self._norm(mixed)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep g of the state (B, H, D, D) and add (1 - g) v^T to it."""
        k, log_decay = self._keys_and_decay(k, key_padding_mask)
        return {"state": gated_state(k, v, log_decay, memory.get("state"))}

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """silu(q) applied to the state."""
        return self._norm(F.silu(q) @ memory["state"])

    def memory_elements(self, length: int) -> int:
        """The state: H D D."""
        return self.head_dim * self.embed_dim

    def _norm(self, mixed: Tensor) -> Tensor:
        return mixed * (mixed.square().mean(dim=(1, 3), keepdim=True) + self.eps).rsqrt()

    def _keys_and_decay(self, logits: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """1 - g and log g, each computed where it does not cancel."""
        bound = logits.new_tensor(self.start)
        if self.shift is not None:
            bound = bound + self.shift.to(logits.dtype)
        k = (-bound).sigmoid() * (-logits).sigmoid()
        log_decay = torch.logaddexp(
            F.logsigmoid(bound), F.logsigmoid(-bound) + F.logsigmoid(logits)
        )
        if padding is not None:
            padding = padding[:, None, :, None]
            k, log_decay = k.masked_fill(padding, 0.0), log_decay.masked_fill(padding, 0.0)
        return k, log_decay
