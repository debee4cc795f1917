"""S4D: each channel through a linear system of its own with a diagonal complex state.

Source: Gu et al., "On the Parameterization and Initialization of Diagonal State Space Models",
NeurIPS 2022, arXiv:2206.11893; the layer around it is that of the authors' code, whose form of both
directions (a second C) the noncausal pattern has too. `channels` is CAB's, ICML 2023.
Departs from CAB's code: its output map has no gate, and a state is there to decode with.
As by the authors, the modes and the steps are trained without weight decay, and at a learning rate
of 0.001 at most.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern, State
from attentions.functional.fft_convolution import fft_convolution
from attentions.functional.precision import full_precision, in_full
from attentions.stream import StreamAttention


class S4dAttention(StreamAttention):
    """y = K * u + D u with K_l = 2 Re sum_n C_n B_n exp(l step A_n); then GELU, linear map, GLU.

    One token at a time it is x_t = exp(step A) x_{t-1} + B u_t, y_t = 2 Re C x_t + D u_t, with the
    zero-order hold B = (exp(step A) - 1) / A. There are no heads: `num_heads` is not used.

    Args:
        state_size: Numbers in the state of a channel: so many halves of conjugate pairs.
        init: Where the modes start: -1/2 + i pi n ("lin") or -1/2 + i N / pi (N / (2n + 1) - 1)
            ("inv").
        channels: Systems per channel of the input, which share A and the step.
        min_step: Steps start log-uniform from here
        max_step: to here.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = dict.fromkeys(
        (Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS),
        "a convolution has no query to ask another sequence with",
    )
    undecayed: ClassVar = dict.fromkeys(("log_step", "log_decay", "frequency"), 1e-3)

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        state_size: int = 64,
        init: str = "lin",
        channels: int = 1,
        min_step: float = 0.001,
        max_step: float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if state_size < 2 or state_size % 2:
            self._fail(f"state_size must be positive and even, got {state_size}")
        if init not in ("lin", "inv"):
            self._fail(f"init must be 'lin' or 'inv', got {init!r}")
        if channels < 1:
            self._fail(f"channels must be positive, got {channels}")
        if not 0.0 < min_step <= max_step:
            self._fail(f"steps must be 0 < min_step <= max_step, got {min_step} and {max_step}")
        n = torch.arange(state_size // 2.0)
        lin, inv = math.pi * n, state_size / math.pi * (state_size / (2 * n + 1) - 1)
        frequency = lin if init == "lin" else inv
        directions = 2 if self.pattern is Pattern.NONCAUSAL_SELF else 1
        modes = (embed_dim, state_size // 2)
        log_step = torch.empty(embed_dim).uniform_(math.log(min_step), math.log(max_step))
        self.log_step = nn.Parameter(log_step)
        # A is -exp(log_decay) + i frequency, whose real part cannot grow above zero.
        self.log_decay = nn.Parameter(torch.full(modes, 0.5).log())
        self.frequency = nn.Parameter(frequency.expand(modes).clone())
        # Real and imaginary part, so that a cast of the module takes both along.
        self.c = nn.Parameter(2**-0.5 * torch.randn(directions, channels, *modes, 2))
        self.skip = nn.Parameter(torch.randn(channels, embed_dim))
        self.out_proj = nn.Linear(channels * embed_dim, 2 * embed_dim)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `Attention.attend`; a padded position puts in zero, and time passes."""
        u = in_full(query)
        if key_padding_mask is not None:
            u = u.masked_fill(key_padding_mask[..., None], 0.0)
        with full_precision(u):
            log_factor, c = self._modes(u.dtype)
            kernels = _kernels(log_factor, c, u.shape[1])  # (directions, channels, E, L)
            # D stands at distance zero of the kernel.
            kernel = kernels[0] + F.pad(self.skip[..., None].to(u.dtype), (0, u.shape[1] - 1))
            ahead = kernels[1] if self.pattern is Pattern.NONCAUSAL_SELF else None
            y = fft_convolution(u.mT[:, None], kernel, ahead)  # (B, channels, E, L)
        return self._finish(y.flatten(1, 2).mT)

    def decode(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StreamAttention.decode`; the state is x: (B, E, N / 2), real and imaginary part."""
        u = in_full(query)
        with full_precision(u):
            log_factor, c = self._modes(u.dtype)
            if state.tensors:
                now, before = u[:, 0], torch.view_as_complex(state.tensors["x"])
                x = now[..., None] + log_factor.exp() * before
                y = (c[0] * x[:, None]).sum(dim=-1).real + self.skip.to(u.dtype) * now[:, None]
            else:
                x, y = _last_state(log_factor, u.mT), None
        out = self.attend(query, query) if y is None else self._finish(y.flatten(1)[:, None])
        return out, State(state.position + query.shape[1], {"x": torch.view_as_real(x)})

    def memory_elements(self, length: int) -> int:
        """N / 2 complex numbers per channel: E N."""
        return self.embed_dim * 2 * self.frequency.shape[1]

    def _modes(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """step A (E, N / 2), and 2 C B (directions, channels, E, N / 2)."""
        log_step, log_decay, frequency, c = (
            p.to(dtype) for p in (self.log_step, self.log_decay, self.frequency, self.c)
        )
        a = torch.complex(-log_decay.exp(), frequency)
        log_factor = log_step.exp()[:, None] * a
        return log_factor, 2 * torch.view_as_complex(c) * (torch.expm1(log_factor) / a)

    def _finish(self, y: Tensor) -> Tensor:
        """(B, L, channels E) to (B, L, E)."""
        y = F.dropout(F.gelu(y), self.dropout, self.training)
        return F.glu(self.out_proj(y.to(self.out_proj.weight.dtype)))


def _kernels(log_factor: Tensor, c: Tensor, length: int) -> Tensor:
    """Re sum_n c_n exp(l log_factor_n) for l < length: (E, N), (..., E, N) to (..., E, length).

    With l = s t + r it is a product of real matrices of some sqrt(length) columns, where the powers
    of every position would take N times the memory of the result.
    """
    within, starts = _powers(log_factor, length)
    left = c[..., None] * starts
    left = torch.cat([left.real, -left.imag], dim=-2)  # (..., E, 2 N, T)
    right = torch.cat([within.real, within.imag], dim=-2)
    return (left.mT @ right).flatten(-2)[..., :length]


def _last_state(log_factor: Tensor, u: Tensor) -> Tensor:
    """The sum over l of exp((L - 1 - l) log_factor) u_l: (E, N), (B, E, L) to (B, E, N)."""
    within, starts = _powers(log_factor, u.shape[-1])
    num_starts, size = starts.shape[-1], within.shape[-1]
    u = F.pad(u.flip(-1), (0, num_starts * size - u.shape[-1])).unflatten(-1, (num_starts, size))
    real, imag = u @ within.real.mT, u @ within.imag.mT  # (B, E, T, N)
    return (torch.complex(real, imag) * starts.mT).sum(dim=-2)


def _powers(log_factor: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """exp(r log_factor) and exp(s t log_factor), (E, N, s) and (E, N, T), with s T >= length."""
    size = math.isqrt(length - 1) + 1
    r = torch.arange(size, device=log_factor.device)
    t = torch.arange(0, length, size, device=log_factor.device)
    return _exp(log_factor[..., None] * r), _exp(log_factor[..., None] * t)


def _exp(z: Tensor) -> Tensor:
    """exp(z); on a CPU torch's own takes ten times as long, for it is not vectorised."""
    size = z.real.exp()
    return torch.complex(size * z.imag.cos(), size * z.imag.sin())
