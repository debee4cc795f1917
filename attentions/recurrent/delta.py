"""The layer around the delta rule that DeltaNet and Gated DeltaNet share.

Source: Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length",
NeurIPS 2024, arXiv:2406.06484, and the authors' code (flash-linear-attention).
They have the causal self pattern. Here the noncausal one sums both directions, with the same
weights; in the cross patterns the context is written once and each query reads the final state, in
which what was written last weighs most. Queries are convolved with earlier queries, never later.
Departs from them: projections have biases, as all here, and a padded position writes nothing.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern, State
from attentions.functional.delta_rule import delta_rule, delta_rule_state, delta_step
from attentions.functional.precision import full_precision, in_full
from attentions.functional.short_convolution import last_positions, short_convolution
from attentions.stream import StreamAttention

Rows = Mapping[str, Tensor]


class DeltaRuleAttention(StreamAttention):
    """Queries, keys and values by short convolutions; a memory by the delta rule; a norm per head.

    A mechanism says how the memory decays (`log_decay`) and what gates the output (`gate`). From
    the convolutions to the norm all is in float32 at least, as in the authors' kernels.

    Args:
        value_expansion: Width of the values over that of the keys.
        conv_size: Positions that the short convolutions see.
        eps: Added to the mean square in the norm.
    """

    patterns = frozenset(Pattern)
    backends: ClassVar = {"fla": frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})}

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        value_expansion: int,
        conv_size: int,
        eps: float,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if value_expansion < 1:
            self._fail(f"value_expansion must be positive, got {value_expansion}")
        if conv_size < 1:
            self._fail(f"conv_size must be positive, got {conv_size}")
        self.conv_size = conv_size
        self.eps = eps
        value_dim = value_expansion * embed_dim
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, value_dim)
        self.out_proj = nn.Linear(value_dim, embed_dim)
        self.beta_proj = nn.Linear(embed_dim, num_heads)
        self.q_conv = nn.Parameter(torch.empty(embed_dim, conv_size))
        self.k_conv = nn.Parameter(torch.empty(embed_dim, conv_size))
        self.v_conv = nn.Parameter(torch.empty(value_dim, conv_size))
        self.norm = nn.Parameter(torch.ones(value_expansion * self.head_dim))
        for proj in (self.q_proj, self.k_proj, self.v_proj, self.beta_proj):
            nn.init.xavier_uniform_(proj.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)
        for proj in (self.q_proj, self.k_proj, self.v_proj, self.beta_proj, self.out_proj):
            nn.init.zeros_(proj.bias)
        for conv in (self.q_conv, self.k_conv, self.v_conv):
            nn.init.uniform_(conv, -(conv_size**-0.5), conv_size**-0.5)  # torch's for a conv1d

    def log_decay(self, x: Tensor) -> Tensor | None:
        """The log of the decay (B, L, H) before each position of x (B, L, E); None for none."""
        raise NotImplementedError

    def gate(self, normed: Tensor, query: Tensor) -> Tensor:
        """The output (B, M, value_expansion E), as the query (B, M, E) gates it, if it does."""
        raise NotImplementedError

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `Attention.attend`."""
        rows = self._queries(query, query_padding_mask)
        if self.pattern.is_cross:
            mixed, _ = self._read(rows, self._write(context, key_padding_mask))
            return self._finish(mixed, query)
        rows |= self._writings(context, key_padding_mask)
        if self.pattern is Pattern.CAUSAL_SELF:
            mixed, _ = self._recur(rows, {})
        else:  # both directions, side by side in the batch
            both = {name: torch.cat([x, x.flip(1)]) for name, x in rows.items()}
            ahead, back = self._recur(both, {})[0].chunk(2)
            mixed = ahead + back.flip(2)
        return self._finish(mixed, query)

    @torch.no_grad()
    def init_state(
        self,
        batch_size: int,
        context: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> State:
        """See `Attention.init_state`."""
        self._check_decoding(batch_size, context, key_padding_mask)
        return State() if context is None else State(0, self._write(context, key_padding_mask))

    def decode(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StreamAttention.decode`."""
        rows = self._queries(query)
        if self.pattern.is_cross:
            mixed, memory = self._read(rows, state.tensors)
        else:
            mixed, memory = self._recur(rows | self._writings(query), state.tensors)
        return self._finish(mixed, query), State(state.position + query.shape[1], memory)

    def memory_elements(self, length: int) -> int:
        """H D x D with values x times as wide, and what the convolutions, of width w, see."""
        value_dim = self.v_proj.out_features
        # In causal cross the keys and values are of the context, which is over.
        convolved = self.embed_dim if self.pattern.is_cross else 2 * self.embed_dim + value_dim
        return self.head_dim * value_dim + (self.conv_size - 1) * convolved

    def _queries(self, x: Tensor, padding: Tensor | None = None) -> dict[str, Tensor]:
        return _all_in_full({"q": self.q_proj(x)}, padding)

    def _writings(self, x: Tensor, padding: Tensor | None = None) -> dict[str, Tensor]:
        """What x (B, L, E) has to write, each (B, L, .); all of it zero at padding."""
        rows = {"k": self.k_proj(x), "v": self.v_proj(x), "beta": self.beta_proj(x).sigmoid()}
        log_decay = self.log_decay(x)
        return _all_in_full(rows if log_decay is None else rows | {"log_decay": log_decay}, padding)

    def _recur(self, rows: Rows, memory: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Write and answer: by chunks into an empty memory, into another by a step."""
        with full_precision(rows["q"]):
            (q, k, v), recent = self._convolve(rows, memory, "qkv")
            beta, log_decay = _rates(rows)
            if memory:
                state = delta_step(memory["state"], k, v, beta, log_decay)
                mixed = q @ state
            else:
                mixed, state = delta_rule(q, k, v, beta, log_decay, backend=self.backend)
        return mixed, {"state": state, **recent}

    def _write(self, context: Tensor, padding: Tensor | None) -> dict[str, Tensor]:
        """The memory after the whole context, from which queries of the cross patterns read."""
        rows = self._writings(context, padding)
        with full_precision(rows["k"]):
            (k, v), _ = self._convolve(rows, {}, "kv")
            return {"state": delta_rule_state(k, v, *_rates(rows))}

    def _read(self, rows: Rows, memory: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        with full_precision(rows["q"]):
            (q,), recent = self._convolve(rows, memory, "q")
            return q @ memory["state"], {"state": memory["state"], **recent}

    def _convolve(
        self, rows: Rows, memory: Rows, names: str
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """silu(conv(x)) by heads, keys and queries of norm 1, and the rows for the next call."""
        heads, recent = [], {}
        for name in names:
            x, before = rows[name], memory.get(name)
            weight = getattr(self, f"{name}_conv").to(x.dtype)
            recent[name] = last_positions(x, self.conv_size - 1, before)
            x = F.silu(short_convolution(x, weight, before))
            x = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            heads.append(x if name == "v" else _normalised(x))
        return heads, recent

    def _finish(self, mixed: Tensor, query: Tensor) -> Tensor:
        """Norm, gate and project the answers (B, H, M, value_expansion D) to (B, M, E)."""
        with full_precision(mixed):
            scaled = mixed * self.head_dim**-0.5
            normed = F.rms_norm(scaled, self.norm.shape, self.norm.to(mixed.dtype), self.eps)
        out = self.gate(normed.transpose(1, 2).flatten(-2), query)
        out = F.dropout(out, self.dropout, self.training)
        return self.out_proj(out.to(self.out_proj.weight.dtype))


def _all_in_full(rows: Rows, padding: Tensor | None) -> dict[str, Tensor]:
    full = {name: in_full(x) for name, x in rows.items()}
    if padding is None:
        return full
    return {name: x.masked_fill(padding[..., None], 0.0) for name, x in full.items()}


def _rates(rows: Rows) -> tuple[Tensor, Tensor | None]:
    """beta and, where there is one, log_decay: (B, H, L)."""
    log_decay = rows.get("log_decay")
    return rows["beta"].mT, None if log_decay is None else log_decay.mT


def _normalised(x: Tensor) -> Tensor:
    # Of norm 1, but for the 1e-6 of the authors' code, which keeps zero at zero.
    return x * (x.square().sum(dim=-1, keepdim=True) + 1e-6).rsqrt()
