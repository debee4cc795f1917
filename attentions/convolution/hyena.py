"""Hyena: long convolutions with implicit filters between gates made of the input.

Source: Poli et al., "Hyena Hierarchy: Towards Larger Convolutional Language Models", ICML 2023,
arXiv:2302.10866, and the authors' code (safari): there, as here, order N has N - 1 long filters.
The paper has the causal self pattern; here the noncausal one gives each filter a second one, for
what stands after a position, while the short convolutions stay causal.
Departs from the code: each long filter has a network of its own (the same at order 2), whose
features of the distance are fixed, where the code trains them too; and dropout is on the output.
The filters start, and train without weight decay, as in the code; the other maps start as those of
every mechanism here.
"""

import itertools
import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern, State
from attentions.convolution.long_convolution import (
    LongConvolution,
    at_zero,
    distance_features,
    start_small,
)
from attentions.functional.precision import full_precision, in_full
from attentions.functional.saturated import saturated
from attentions.functional.short_convolution import last_positions, short_convolution
from attentions.stream import StreamAttention


class HyenaAttention(StreamAttention):
    """y = x_N (h_{N-1} * (x_{N-1} ... (h_1 * (x_1 v)))), then a linear map.

    v and x_n are linear maps of the input, after a short convolution; for N = 2 that is
    D(x_2) T(h) D(x_1) v, with a Toeplitz matrix between two diagonal ones. Filters are functions of
    the distance over `max_len`, so that it is needed, and longer inputs are refused. Decoding keeps
    every input of the long filters, and the filters: no recurrence gives an implicit filter. In
    float16 an output, of degree N + 1 in the input, ends at 65,504. There are no heads: `num_heads`
    is not used.

    Args:
        order: N, the number of gates.
        conv_size: Positions that the short convolutions see.
        filter_width: Width of the network that is the filter.
        filter_bands: Number of frequencies of its features.
        filter_frequency: Initial factor inside its sines.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = dict.fromkeys(
        (Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS),
        "a convolution has no query to ask another sequence with",
    )

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        order: int = 2,
        conv_size: int = 3,
        filter_width: int = 64,
        filter_bands: int = 16,
        filter_frequency: float = 14.0,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if order < 2:
            self._fail(f"order must be at least 2, got {order}")
        if min(conv_size, filter_width, filter_bands) < 1:
            self._fail(
                "conv_size, filter_width and filter_bands must be positive, "
                f"got {conv_size}, {filter_width} and {filter_bands}"
            )
        if self.max_len is None:
            self._fail("needs max_len, the scale of its filters, got None")
        assert self.max_len is not None
        self.order = order
        width = (order + 1) * embed_dim
        self.in_proj = nn.Linear(embed_dim, width)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)
        bound = conv_size**-0.5  # torch's for a conv1d
        self.conv = nn.Parameter(torch.empty(width, conv_size).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.long = nn.ModuleList(
            SineConvolution(
                embed_dim,
                self.max_len,
                both_ways=self.pattern is Pattern.NONCAUSAL_SELF,
                width=filter_width,
                bands=filter_bands,
                frequency=filter_frequency,
            )
            for _ in range(order - 1)
        )

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `Attention.attend`; a padded position puts in zero, and keeps its place."""
        rows = self._rows(query)
        if key_padding_mask is not None:
            rows = rows.masked_fill(key_padding_mask[..., None], 0.0)
        with full_precision(rows):
            streams = self._convolve(rows)
            if key_padding_mask is not None:
                streams = streams.masked_fill(key_padding_mask[..., None], 0.0)
            last, *gates, v = streams.chunk(self.order + 1, dim=-1)
            for gate, long in zip(reversed(gates), self.long, strict=True):
                v = long(gate * v)
        return self._finish(last * v)

    def decode(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StreamAttention.decode`."""
        rows, memory = self._rows(query, state.position), state.tensors
        before = memory.get("recent")
        kept = {"recent": last_positions(rows, self.conv.shape[1] - 1, before)}
        with full_precision(rows):
            last, *gates, v = self._convolve(rows, before).chunk(self.order + 1, dim=-1)
            for i, (gate, long) in enumerate(zip(reversed(gates), self.long, strict=True)):
                assert isinstance(long, LongConvolution)
                past = {name: memory[f"{name}_{i}"] for name in long.memory if memory}
                v, past = long.decode(gate * v, past, state.position)
                kept |= {f"{name}_{i}": x for name, x in past.items()}
        return self._finish(last * v), State(state.position + query.shape[1], kept)

    def memory_elements(self, length: int) -> int:
        """Inputs and filters of n - 1 long convolutions, and what the short ones of width w see."""
        width, conv_size = self.conv.shape
        return (conv_size - 1) * width + (self.order - 1) * 2 * length * self.embed_dim

    def _rows(self, query: Tensor, position: int = 0) -> Tensor:
        """What the short convolutions take, (B, L, (order + 1) E) in float32 at least."""
        assert self.max_len is not None
        length = position + query.shape[1]
        if length > self.max_len:
            self._fail(f"a sequence of length {length} is longer than max_len = {self.max_len}")
        return in_full(self.in_proj(query))

    def _convolve(self, rows: Tensor, before: Tensor | None = None) -> Tensor:
        conv, bias = self.conv.to(rows.dtype), self.conv_bias.to(rows.dtype)
        return short_convolution(rows, conv, before, bias=bias)

    def _finish(self, mixed: Tensor) -> Tensor:
        mixed = F.dropout(mixed, self.dropout, self.training)
        out = self.out_proj(saturated(mixed, self.out_proj.weight.dtype))
        return saturated(out, out.dtype)


class SineConvolution(LongConvolution):
    """h * x + skip x with h(t) = MLP(features of t) exp(-rate t), t from 0 to 1 over `max_len`.

    Features are t itself and cosines and sines of it; the MLP has three hidden layers of sines.

    Args:
        channels: E, each with a filter and a fixed rate of its own.
        max_len: The length to which t, and with it the filter, is scaled.
        both_ways: Whether there is a second filter, for the positions after each.
        width: Of the hidden layers.
        bands: Number of frequencies of the features.
        frequency: Initial factor inside the sines of the hidden layers.
    """

    undecayed: ClassVar = dict.fromkeys(("hidden", "frequency", "filters"), math.inf)

    def __init__(
        self,
        channels: int,
        max_len: int,
        *,
        both_ways: bool,
        width: int,
        bands: int,
        frequency: float,
    ) -> None:
        super().__init__()
        self.max_len = max_len
        self.bands = bands
        sizes = [1 + 2 * bands, width, width, width]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.frequency = nn.Parameter(torch.full((width,), frequency))
        self.filters = nn.Linear(width, (2 if both_ways else 1) * channels, bias=False)
        self.skip = nn.Parameter(torch.randn(channels))
        start_small(self)

    def filter(self, distance: Tensor, dtype: torch.dtype) -> Tensor:
        """See `LongConvolution.filter`."""
        h = features = distance_features(distance, self.max_len, self.bands, dtype)
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            h = F.linear(h, layer.weight.to(dtype), layer.bias.to(dtype))
            h = (self.frequency.to(dtype) * h).sin()
        channels = len(self.skip)
        h = F.linear(h, self.filters.weight.to(dtype)).unflatten(-1, (-1, channels))
        # They fade to a hundredth within 1.5 of `max_len` to 0.3 of it.
        rate = torch.linspace(1 / 1.5, 1 / 0.3, channels, dtype=dtype, device=distance.device)
        fading = (-math.log(100) * features[:, :1] * rate).exp()  # (n, E)
        h = (h * fading[:, None]).movedim(0, -1)
        return h + at_zero(self.skip.to(dtype), distance, len(h))
