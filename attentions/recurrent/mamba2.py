"""Mamba-2: a state space layer whose step size, input and output vectors come from the token.

Source: Dao and Gu, "Transformers are SSMs", ICML 2024, arXiv:2405.21060, and the authors' code
(mamba_ssm). They have the causal self pattern. Here the noncausal one sums both directions, with
the same weights, the convolution included; norm and gate come after the sum.
Departs from them: at a padded position nothing is written nor forgotten, and the convolution sees
zero there.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern, State
from attentions.functional.gated_scan import gated_state
from attentions.functional.precision import full_precision, in_full
from attentions.functional.scan import causal_scan
from attentions.functional.short_convolution import last_positions, short_convolution
from attentions.stream import StreamAttention


class Mamba2Attention(StreamAttention):
    """W_O RMS(y * silu(z)), where y_t = S_t^T C_t + D x_t and S_t = a_t S_{t-1} + B_t (dt_t x_t)^T.

    For each head a_t = exp(-A dt_t) with dt_t = softplus(W x_t + b) and a scalar A > 0. x, B and C
    are silu(conv(W x)); B and C, which are keys and queries, are shared by the heads, and x, the
    values, is `expansion` E wide: the paper's heads are 64 of that. From the convolution to the
    norm all is in float32 at least, as in the authors' kernels. As theirs, A, b and D are trained
    without weight decay.

    Args:
        state_dim: Width N of B and C.
        expansion: Width of x and z over that of the input.
        conv_size: Positions that the short convolution sees.
        eps: Added to the mean square in the norm.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = dict.fromkeys(
        (Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS),
        "no cross form is published: one token gives both what writes and what reads the state",
    )
    backends: ClassVar = {"fla": frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})}
    undecayed: ClassVar = dict.fromkeys(("dt_bias", "log_a", "skip"), math.inf)

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        state_dim: int = 128,
        expansion: int = 2,
        conv_size: int = 4,
        eps: float = 1e-5,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        for name, size in (
            ("state_dim", state_dim),
            ("expansion", expansion),
            ("conv_size", conv_size),
        ):
            if size < 1:
                self._fail(f"{name} must be positive, got {size}")
        self.state_dim = state_dim
        self.conv_size = conv_size
        self.eps = eps
        inner = expansion * embed_dim
        self.widths = (inner, inner + 2 * state_dim, num_heads)  # of z; x, B and C; dt
        self.in_proj = nn.Linear(embed_dim, sum(self.widths), bias=False)
        bound = conv_size**-0.5  # torch's for a conv1d of each channel
        self.conv = nn.Parameter(torch.empty(self.widths[1], conv_size).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(self.widths[1]).uniform_(-bound, bound))
        # The authors': dt from 0.001 to 0.1, evenly in its logarithm, and A from 1 to 16.
        dt = torch.empty(num_heads).uniform_(math.log(1e-3), math.log(0.1)).exp()
        self.dt_bias = nn.Parameter(dt + (-torch.expm1(-dt)).log())  # softplus of which is dt
        self.log_a = nn.Parameter(torch.empty(num_heads).uniform_(1.0, 16.0).log())
        self.skip = nn.Parameter(torch.ones(num_heads))  # D
        self.norm = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, embed_dim, bias=False)

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `Attention.attend`."""
        z, xbc, dt = self._project(query, key_padding_mask)
        with full_precision(xbc):
            y = self._scan(xbc, dt)
            if self.pattern is Pattern.NONCAUSAL_SELF:
                y = y + self._scan(xbc.flip(1), dt.flip(1)).flip(2)
        return self._finish(y, z)

    def decode(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StreamAttention.decode`."""
        z, xbc, dt = self._project(query)
        before, ssm = state.tensors.get("recent"), state.tensors.get("ssm")
        with full_precision(xbc):
            x, b, c, values, log_decay = self._select(xbc, dt, before)
            after = gated_state(b, values, log_decay[..., None], ssm)
            if ssm is None:
                mixed = causal_scan(c, b, values, log_decay=log_decay, backend=self.backend)
            else:
                mixed = c @ after
            y = mixed + self._skipped(x)
        memory = {"ssm": after, "recent": last_positions(xbc, self.conv_size - 1, before)}
        return self._finish(y, z), State(state.position + query.shape[1], memory)

    def memory_elements(self, length: int) -> int:
        """The state, x E N, and (w - 1) (x E + 2 N) that the convolution sees."""
        inner, convolved, _ = self.widths
        return inner * self.state_dim + (self.conv_size - 1) * convolved

    def _project(
        self, query: Tensor, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z (B, L, inner); x, B and C before the convolution; and dt (B, L, H)."""
        z, xbc, dt = in_full(self.in_proj(query)).split(self.widths, dim=-1)
        dt = F.softplus(dt + self.dt_bias)
        if padding is not None:
            xbc, dt = (t.masked_fill(padding[..., None], 0.0) for t in (xbc, dt))
        return z, xbc, dt

    def _scan(self, xbc: Tensor, dt: Tensor) -> Tensor:
        """y (B, H, L, P) in one direction."""
        x, b, c, values, log_decay = self._select(xbc, dt)
        mixed = causal_scan(c, b, values, log_decay=log_decay, backend=self.backend)
        return mixed + self._skipped(x)

    def _select(
        self, xbc: Tensor, dt: Tensor, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x (B, H, L, P), B and C (B, 1, L, N), dt x (B, H, L, P) and log a (B, H, L)."""
        weight, bias = self.conv.to(xbc.dtype), self.conv_bias.to(xbc.dtype)
        # Channel by channel in memory; what follows reads it by positions, often.
        xbc = F.silu(short_convolution(xbc, weight, before, bias=bias).contiguous())
        x, b, c = xbc.split([self.widths[0], self.state_dim, self.state_dim], dim=-1)
        x = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        dt = dt.mT
        # Below -100 nothing is left, and sums over a chunk could no longer be told apart.
        log_decay = (-self.log_a.to(dt.dtype).exp()[:, None] * dt).clamp(min=-100.0)
        return x, b[:, None], c[:, None], dt[..., None] * x, log_decay

    def _skipped(self, x: Tensor) -> Tensor:
        return self.skip.to(x.dtype)[:, None, None] * x

    def _finish(self, y: Tensor, z: Tensor) -> Tensor:
        """Gate, norm and project y (B, H, L, P)."""
        with full_precision(y):
            gated = y.transpose(1, 2).flatten(-2) * F.silu(z)
            out = F.rms_norm(gated, self.norm.shape, self.norm.to(y.dtype), self.eps)
        out = F.dropout(out, self.dropout, self.training)
        return self.out_proj(out.to(self.out_proj.weight.dtype))
