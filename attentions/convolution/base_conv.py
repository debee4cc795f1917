"""BaseConv: the input, linearly mapped, times a convolution of it; the least gated convolution.

Source: Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models", ICLR
2024, arXiv:2312.04927, and the authors' code.
The paper has the causal self pattern; here the noncausal one has a second filter, for what stands
after a position.
The long filter is that of the code from before the paper on (zoology 8486daf): one hidden layer of
ReLU, no decay, and the input added; until then it was Hyena's.
Departs from the code: without its own residual connection, which stands around each mechanism here;
with b_2, which the paper has for both filters and the code for the short ones; W starts as the maps
of every mechanism here.
"""

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


class BaseConvAttention(StreamAttention):
    """y = (u W + b_1) . (h * u + b_2), channel by channel.

    The paper alternates short and long filters from layer to layer; here one mechanism has one of
    them. A long one is a function of the distance over `max_len`, which it needs, refusing longer
    inputs; decoding then keeps every input, and else the last few. In float16 an output, a product
    of two inputs, ends at 65,504. There are no heads: `num_heads` is not used.

    Args:
        kernel_size: Positions of a short filter; None for a long one.
        filter_width: Width of the network that is the long filter.
        filter_bands: Number of frequencies of its features.
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
        kernel_size: int | None = None,
        filter_width: int = 16,
        filter_bands: int = 1,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if min(filter_width, filter_bands) < 1:
            self._fail(
                "filter_width and filter_bands must be positive, "
                f"got {filter_width} and {filter_bands}"
            )
        self.gate_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.gate_proj.weight)
        nn.init.zeros_(self.gate_proj.bias)
        self.conv_bias = nn.Parameter(torch.zeros(embed_dim))
        self.long = self.short = None
        both_ways = self.pattern is Pattern.NONCAUSAL_SELF
        if kernel_size is None:
            if self.max_len is None:
                self._fail("a long filter needs max_len, its scale, got None")
            assert self.max_len is not None
            self.long = ReluConvolution(
                embed_dim,
                self.max_len,
                both_ways=both_ways,
                width=filter_width,
                bands=filter_bands,
            )
        else:
            if kernel_size < 1:
                self._fail(f"kernel_size must be positive or null, got {kernel_size}")
            short = torch.empty(2 if both_ways else 1, embed_dim, kernel_size)
            bound = kernel_size**-0.5  # torch's for a conv1d
            self.short = nn.Parameter(short.uniform_(-bound, bound))

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `Attention.attend`; a padded position puts in zero, and keeps its place."""
        u = self._input(query)
        if key_padding_mask is not None:
            u = u.masked_fill(key_padding_mask[..., None], 0.0)
        with full_precision(u):
            if self.long is not None:
                convolved = self.long(u)
            else:
                weight, *ahead = self._short_weights(u)
                convolved = short_convolution(u, weight)
                for weight_ahead in ahead:
                    later = F.pad(u[:, 1:], (0, 0, 0, 1)).flip(1)
                    convolved = convolved + short_convolution(later, weight_ahead).flip(1)
        return self._gate(query, convolved)

    def decode(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StreamAttention.decode`."""
        u, memory = self._input(query, state.position), state.tensors
        with full_precision(u):
            if self.long is not None:
                # The memory holds u, which may be the caller's own query.
                convolved, memory = self.long.decode(u.clone(), memory, state.position)
            else:
                (weight,), before = self._short_weights(u), memory.get("recent")
                convolved = short_convolution(u, weight, before)
                memory = {"recent": last_positions(u, weight.shape[1] - 1, before)}
        return self._gate(query, convolved), State(state.position + query.shape[1], memory)

    def memory_elements(self, length: int) -> int:
        """All inputs and the filter, 2 N E; for a short one the w - 1 inputs that it sees."""
        if self.long is not None:
            return 2 * length * self.embed_dim
        assert self.short is not None
        return (self.short.shape[-1] - 1) * self.embed_dim

    def _input(self, query: Tensor, position: int = 0) -> Tensor:
        length = position + query.shape[1]
        max_len = length if self.long is None else self.long.max_len
        if length > max_len:
            self._fail(f"a sequence of length {length} is longer than max_len = {max_len}")
        return in_full(query)

    def _short_weights(self, u: Tensor) -> Tensor:
        assert self.short is not None
        return self.short.to(u.dtype)

    def _gate(self, query: Tensor, convolved: Tensor) -> Tensor:
        gate = self.gate_proj(query)
        mixed = gate * (convolved + self.conv_bias.to(convolved.dtype))
        return saturated(F.dropout(mixed, self.dropout, self.training), gate.dtype)


class ReluConvolution(LongConvolution):
    """h * x + x with h(t) = W_2 relu(W_1 (features of t) + a_1) + a_2, t over `max_len`.

    Args:
        channels: E, each with a filter of its own.
        max_len: The length to which t, and with it the filter, is scaled.
        both_ways: Whether there is a second filter, for the positions after each.
        width: Of the hidden layer.
        bands: Number of frequencies of the features, which are t and cosines and sines of it.
    """

    def __init__(
        self, channels: int, max_len: int, *, both_ways: bool, width: int, bands: int
    ) -> None:
        super().__init__()
        self.max_len = max_len
        self.bands = bands
        self.channels = channels
        self.hidden = nn.Linear(1 + 2 * bands, width)
        self.filters = nn.Linear(width, (2 if both_ways else 1) * channels)
        start_small(self)

    def filter(self, distance: Tensor, dtype: torch.dtype) -> Tensor:
        """See `LongConvolution.filter`."""
        h = distance_features(distance, self.max_len, self.bands, dtype)
        h = F.linear(h, self.hidden.weight.to(dtype), self.hidden.bias.to(dtype)).relu()
        h = F.linear(h, self.filters.weight.to(dtype), self.filters.bias.to(dtype))
        h = h.unflatten(-1, (-1, self.channels)).movedim(0, -1)
        one = torch.ones(self.channels, dtype=dtype, device=distance.device)
        return h + at_zero(one, distance, len(h))
