"""Core context aware attention: near tokens one by one, far ones as one pooled core per group.

Source: Chen et al., "Core Context Aware Transformers for Long Context Language Modeling", ICML
2025, arXiv:2412.12465, and the authors' code, where the paper is silent: each head pools its own
cores, with its own queries.
The paper has the causal self pattern. Here the noncausal one has cores on both sides; the cross
patterns have no window, for nothing says which part of the context is near.
Departs from the paper: its local part starts one token earlier, so that this token would count
twice (not so in the authors' code).

Shapes: B batch, H heads, M query length, N context length, D head_dim, G groups, g group size.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern, State
from attentions.functional.chunks import in_chunks
from attentions.functional.gathered_blocks import gathered_attention
from attentions.functional.growing import append
from attentions.functional.masked import masked_attention


class CoreContextAttention(MultiHeadAttention):
    """softmax(q [K_core; K_near]^T / sqrt D) [V_core; V_near], one softmax over cores and tokens.

    Every `group_size` tokens are a group. Its core is the mean of its keys and values weighed by
    softmax attention of its last token. A query sees the core of each group of which every token is
    at least `window` away, and the tokens of the other groups.

    Args:
        group_size: Tokens per core; the last group may be shorter.
        window: How far a query sees tokens, at least: farther ones that share a group with nearer
            ones are seen too.
    """

    patterns = frozenset(Pattern)
    drops_weights = True
    takes_rotary = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        group_size: int,
        window: int,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        for name, value in (("group_size", group_size), ("window", window)):
            if value < 1:
                self._fail(f"{name} must be positive, got {value}")
        self.group_size = group_size
        self.window = window

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`; in the cross patterns k has the pooling queries behind."""
        dropout = self.dropout if self.training else 0.0
        if self.pattern.is_cross:
            memory = self.absorb({}, k, v, key_padding_mask=key_padding_mask)
            return _attend_to_cores(q, memory, dropout)
        core_k, core_v, is_empty = self._cores(q, k, v, key_padding_mask)
        if key_padding_mask is not None:
            key_padding_mask = torch.cat([is_empty, key_padding_mask], dim=-1)
        keys, allowed = self._visible(q.shape[2], core_k.shape[2], q.device)
        return gathered_attention(
            q,
            torch.cat([core_k, k], dim=2),
            torch.cat([core_v, v], dim=2),
            keys,
            allowed,
            key_padding_mask=key_padding_mask,
            dropout=dropout,
        )

    def _visible(self, length: int, num_cores: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """What each block of queries looks at, for `gathered_attention` to cores and tokens.

        Returns:
            Places among the cores and, behind them, the tokens: (1, T, W); and which of them each
            query sees: bool (1, T, b, W).
        """
        g, both_sides = self.group_size, self.pattern is Pattern.NONCAUSAL_SELF
        block_size = min(length, max(64, min(128, self.window)))
        query = in_chunks(torch.arange(length, device=device)[:, None], block_size)  # (T, b, 1)
        cores = torch.arange(num_cores, device=device)
        is_far = (cores + 1) * g <= query + 1 - self.window  # (T, b, G)
        first = ((query[:, :1] + 1 - self.window) // g).clamp(min=0) * g  # (T, 1, 1)
        span = block_size + (2 if both_sides else 1) * (self.window + g)
        tokens = first + torch.arange(span, device=device)  # (T, 1, span)
        is_near = tokens // g * g + g > query + 1 - self.window
        if both_sides:
            is_far = is_far | (cores * g >= query + self.window)
            is_near = is_near & (tokens // g * g < query + self.window)
        else:
            is_near = is_near & (tokens <= query)
        # Beyond the end there is no token; before the first one, in these places, are the cores.
        places = torch.cat([cores.expand(len(tokens), -1), num_cores + tokens[:, 0]], dim=-1)
        return places[None], torch.cat([is_far, is_near], dim=-1)[None]

    def _cores(
        self, q: Tensor, k: Tensor, v: Tensor, padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of the cores (B, H, G, D), and which groups are empty: bool (1 or B, G).

        The last token that is not padding pools its group.
        """
        g = self.group_size
        if padding_mask is None:
            padding_mask = torch.zeros(1, k.shape[2], dtype=torch.bool, device=k.device)
        is_token = in_chunks(~padding_mask[..., None], g)[..., 0]  # (1 or B, G, g)
        last = (is_token * torch.arange(1, g + 1, device=k.device)).argmax(dim=-1)  # (1 or B, G)
        q, k, v = (in_chunks(x, g) for x in (q, k, v))
        q = q.take_along_dim(last[:, None, :, None, None], dim=3)  # (B, H, G, 1, D)
        allowed = is_token[:, None, :, None]
        core_k, core_v = (masked_attention(q, k, x, allowed)[..., 0, :] for x in (k, v))
        return core_k, core_v, ~is_token.any(dim=-1)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep a context's cores; of tokens those that may still be seen, p in slot p mod room."""
        if self.pattern.is_cross:
            k, q = k.chunk(2, dim=1)
            core_k, core_v, is_empty = self._cores(q, k, v, key_padding_mask)
            cores = {"core_k": core_k, "core_v": core_v}
            return cores if key_padding_mask is None else cores | {"is_empty": is_empty}
        room, end = self.window + self.group_size - 1, position + k.shape[2]
        slots = self._slots(max(position, end - room), end, k.device)
        tokens = {"k": k, "v": v}
        if not memory:
            memory = {
                name: x.new_zeros(*x.shape[:2], room, x.shape[3]) for name, x in tokens.items()
            }
        for name, x in tokens.items():
            memory[name].index_copy_(2, slots, x[:, :, -len(slots) :])
        return dict(memory)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """One softmax over the cores and the tokens that are near `position`."""
        if self.pattern.is_cross:
            return _attend_to_cores(q, memory)
        num_cores = max(0, (position + 1 - self.window) // self.group_size)
        slots = self._slots(num_cores * self.group_size, position + 1, q.device)
        k, v = memory["k"][:, :, slots], memory["v"][:, :, slots]
        if num_cores:
            k = torch.cat([memory["core_k"][:, :, :num_cores], k], dim=2)
            v = torch.cat([memory["core_v"][:, :, :num_cores], v], dim=2)
        return F.scaled_dot_product_attention(q, k, v)

    @torch.no_grad()
    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.step`; a token that ends a group then pools it."""
        output, state = super().step(query, state)
        if not self.pattern.is_cross and state.position % self.group_size == 0:
            q = self._queries(query, state.position - 1).expand(-1, -1, self.group_size, -1)
            slots = self._slots(state.position - self.group_size, state.position, q.device)
            k, v = (state.tensors[name][:, :, slots] for name in ("k", "v"))
            state = self._with_cores(state, q, k, v)
        return output, state

    @torch.no_grad()
    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.prefill`."""
        output, state = super().prefill(query, state)
        whole = query[:, : state.position // self.group_size * self.group_size]
        if not self.pattern.is_cross and whole.shape[1]:
            state = self._with_cores(state, self._queries(whole), *self._keys_and_values(whole))
        return output, state

    def memory_elements(self, length: int) -> int:
        """The cores; in causal self also what no core holds: 2 (N / g + w + g - 1) E."""
        if self.pattern.is_cross:  # with a core for the last group, whole or not
            return self.num_kv(-(-length // self.group_size))
        return self.num_kv(length // self.group_size + self.window + self.group_size - 1)

    def _with_cores(self, state: State, q: Tensor, k: Tensor, v: Tensor) -> State:
        """The state with the cores of groups that have just ended, q, k, v (B, H, whole g, D)."""
        core_k, core_v, _ = self._cores(q, k, v, None)
        earlier = {name: x for name, x in state.tensors.items() if name.startswith("core")}
        num_earlier = state.position // self.group_size - core_k.shape[2]
        cores = append(earlier, num_earlier, core_k=core_k, core_v=core_v)
        return State(state.position, {**state.tensors, **cores})

    def _slots(self, start: int, end: int, device: torch.device) -> Tensor:
        """Where the state keeps the tokens from `start` to `end`."""
        return torch.arange(start, end, device=device) % (self.window + self.group_size - 1)

    def _keys_and_values(self, x: Tensor, position: int = 0) -> tuple[Tensor, Tensor]:
        k, v = super()._keys_and_values(x, position)
        if self.pattern.is_cross:  # where `mix` gets no queries of the context
            k = torch.cat([k, self._queries(x)], dim=1)
        return k, v


def _attend_to_cores(q: Tensor, memory: Mapping[str, Tensor], dropout: float = 0.0) -> Tensor:
    allowed = ~memory["is_empty"][:, None, None] if "is_empty" in memory else None
    return masked_attention(q, memory["core_k"], memory["core_v"], allowed, dropout=dropout)
