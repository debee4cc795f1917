"""Combiner: softmax over the keys of the own span and over one summary of each other span.

Source: Ren et al., "Combiner: Full Attention Transformer with Sparse Computation Cost", NeurIPS
2021, arXiv:2107.05768; its fixed pattern, with spans summarised by maxima.
Departs from the authors' code: noncausal, a query does not see the summary of its own span, whose
keys it sees one by one.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern, State
from attentions.functional.chunks import in_chunks
from attentions.functional.masked import masked_attention

_ONE_SEQUENCE = "the summary of a span needs the span's own queries"


class CombinerAttention(MultiHeadAttention):
    """softmax(q_i [K_span; k_other]^T / sqrt D) [V_span; v_other], in time N sqrt N.

    For each other span (causal: each earlier one), k_other is the maximum of its keys, in each
    coordinate, and v_other is what the maximum of its queries gets from it by softmax attention.

    Args:
        span_size: Positions per span; None for sqrt(max_len).
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = {
        Pattern.NONCAUSAL_CROSS: _ONE_SEQUENCE,
        Pattern.CAUSAL_CROSS: _ONE_SEQUENCE,
    }
    drops_weights = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        span_size: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if span_size is None and self.max_len is None:
            self._fail("needs span_size or max_len, got neither")
        self.span_size = round(math.sqrt(self.max_len or 1)) if span_size is None else span_size
        if self.span_size < 1:
            self._fail(f"span_size must be positive, got {span_size}")

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
        batch_size, _, length, _ = q.shape
        real = torch.ones(batch_size, length, 1, dtype=torch.bool, device=q.device)
        if key_padding_mask is not None:
            real = ~key_padding_mask[..., None]
        real = in_chunks(real, self.span_size)[..., 0]  # (B, T, s)
        # T spans of s positions, each a sample of its own: (B T, H, s, D).
        q, k, v = (in_chunks(x, self.span_size).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        summaries = self._summaries(q, k, v, real.flatten(0, 1)[:, None, None])
        # Every span gets the summaries of all: with s = sqrt N, as much again as k and v.
        num_spans = real.shape[1]
        k, v = (
            torch.cat([x, _for_each_span(summary, batch_size)], dim=-2)
            for x, summary in zip((k, v), summaries, strict=True)
        )
        own = real[:, :, None].expand(-1, -1, self.span_size, -1)  # (B, T, s, s)
        others = ~torch.eye(num_spans, dtype=torch.bool, device=q.device)
        if self.pattern is Pattern.CAUSAL_SELF:
            own, others = own.tril(), others.tril()
        others = others & real.any(dim=-1)[:, None]  # (B, T, T)
        others = others[:, :, None].expand(-1, -1, self.span_size, -1)
        allowed = torch.cat([own, others], dim=-1).flatten(0, 1)[:, None]
        dropout = self.dropout if self.training else 0.0
        out = masked_attention(q, k, v, allowed, dropout=dropout)
        out = out.transpose(1, 2).unflatten(0, (batch_size, -1)).flatten(1, 2)  # (B, T s, H, D)
        return out[:, :length].transpose(1, 2)

    def _summaries(
        self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The key and value that stand for each span: (S, H, s, D) thrice to (S, H, 1, D) twice.

        Args:
            real: Bool (S, 1, 1, s), False where the position is padding; None for no padding.
        """
        top_q, top_k = q, k
        if real is not None:
            lowest = torch.finfo(q.dtype).min
            top_q, top_k = (x.masked_fill(~real.mT, lowest) for x in (q, k))
        top_q, top_k = (x.amax(dim=-2, keepdim=True) for x in (top_q, top_k))
        if real is not None:
            some = real.any(dim=-1, keepdim=True)
            top_q, top_k = (x.masked_fill(~some, 0.0) for x in (top_q, top_k))
        dropout = self.dropout if self.training else 0.0
        return top_k, masked_attention(top_q, k, v, real, dropout=dropout)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep the keys and values of the span under way; `_remember` sums up those before."""
        if not memory:
            return {"k": k, "v": v}
        slot = position % self.span_size
        for name, x in (("k", k), ("v", v)):
            memory[name][:, :, slot : slot + 1] = x
        return dict(memory)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the span so far and the summaries of those before."""
        filled = position % self.span_size + 1
        k, v = (memory[name][:, :, :filled] for name in ("k", "v"))
        if "span_k" in memory:
            k = torch.cat([k, memory["span_k"]], dim=-2)
            v = torch.cat([v, memory["span_v"]], dim=-2)
        return masked_attention(q, k, v)

    @torch.no_grad()
    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.step`."""
        output, state = super().step(query, state)
        return output, self._remember(query, state)

    @torch.no_grad()
    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.prefill`."""
        output, state = super().prefill(query, state)
        return output, self._remember(query, state)

    def memory_elements(self, length: int) -> int:
        """A span of queries, keys and values, and a pair for each whole one: (3 s + 2 N / s) E."""
        return (3 * self.span_size + 2 * (length // self.span_size)) * self.embed_dim

    def _remember(self, query: Tensor, state: State) -> State:
        """Put the queries beside the keys and values, and sum up the spans that are complete."""
        q, size, position = self._heads(self.q_proj, query), self.span_size, state.position
        memory = dict(state.tensors)
        if position > query.shape[1]:
            memory["q"][:, :, (position - 1) % size] = q[:, :, 0]
            if position % size == 0:
                spans = (memory[name] for name in ("q", "k", "v"))
                for name, x in zip(("span_k", "span_v"), self._summaries(*spans), strict=True):
                    memory[name] = torch.cat([memory[name], x], dim=-2)
            return State(position, memory)
        # A prompt, or the first token: all of it is in the memory.
        memory["q"] = q
        num_full = position // size
        spans, rest = {}, {}
        for name, x in memory.items():
            full, last = x.split([num_full * size, position - num_full * size], dim=2)
            spans[name] = full.unflatten(2, (num_full, size)).transpose(1, 2).flatten(0, 1)
            rest[name] = x.new_zeros(*x.shape[:2], size, x.shape[3])
            rest[name][:, :, : last.shape[2]] = last
        summaries = self._summaries(spans["q"], spans["k"], spans["v"])
        for name, x in zip(("span_k", "span_v"), summaries, strict=True):
            shape = (len(query), num_full, *x.shape[1:])
            rest[name] = x.reshape(shape).transpose(1, 2).flatten(2, 3)
        return State(position, rest)


def _for_each_span(summary: Tensor, batch_size: int) -> Tensor:
    """Summaries (B T, H, 1, D) of the spans to (B T, H, T, D), all of them for each."""
    all_spans = summary[:, :, 0].unflatten(0, (batch_size, -1)).transpose(1, 2)  # (B, H, T, D)
    num_spans = all_spans.shape[2]
    return all_spans[:, None].expand(-1, num_spans, -1, -1, -1).flatten(0, 1)
