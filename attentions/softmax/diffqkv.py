"""DiffQKV attention: few key heads, more value heads, and queries through a gated network.

Source: Lin et al., "Sigma: Differential Rescaling of Query, Key and Value for Efficient Language
Models", 2025, arXiv:2501.13629, section 2 and the code in its appendix E.
Left out, as in the Sigma models: narrower keys, and fetching values for the largest scores only.
Departs from it: projections have biases, as all here; no rotary positions.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.growing import append
from attentions.functional.masked import masked_attention
from attentions.functional.precision import full_precision


class AugmentedQuery(nn.Module):
    """W_down (silu(W_gate y) * W_up y) with y = W_Q x.

    Args:
        embed_dim: Width of x and of the result.
        inner_dim: Rows of W_gate and W_up, the d_hq of the paper.
    """

    def __init__(self, embed_dim: int, inner_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.gate_proj = nn.Linear(embed_dim, inner_dim)
        self.up_proj = nn.Linear(embed_dim, inner_dim)
        self.down_proj = nn.Linear(inner_dim, embed_dim)
        for linear in (self.proj, self.gate_proj, self.up_proj, self.down_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, E) to (B, L, E)."""
        y = self.proj(x)
        gate, up = F.silu(self.gate_proj(y)), self.up_proj(y)
        if gate.dtype != torch.float16:
            return self.down_proj(gate * up)
        # A product of two activations soon leaves float16.
        with full_precision(x):
            weight, bias = self.down_proj.weight.float(), self.down_proj.bias.float()
            query = F.linear(gate.float() * up.float(), weight, bias)
        largest = torch.finfo(torch.float16).max
        return query.clamp(-largest, largest).to(torch.float16)


class DiffQKVAttention(MultiHeadAttention):
    """softmax(Q K^T / sqrt D) V, where each key head and each value head serves a group of queries.

    Args:
        num_key_heads: Number of key heads; divides `num_heads`.
        num_value_heads: Number of value heads; divides `num_heads`. None for half of them.
        query_expansion: Width inside the network of the queries over `embed_dim`; None for plain
            queries.
    """

    patterns = frozenset(Pattern)
    drops_weights = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        num_key_heads: int,
        num_value_heads: int | None,
        query_expansion: float | None,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if num_value_heads is None:
            num_value_heads = max(1, num_heads // 2)
        for name, heads in (("key", num_key_heads), ("value", num_value_heads)):
            if heads < 1 or num_heads % heads:
                self._fail(f"num_{name}_heads must divide num_heads = {num_heads}, got {heads}")
        if query_expansion is not None and query_expansion * embed_dim < 1:
            self._fail(f"query_expansion must be positive or null, got {query_expansion}")
        self.k_proj = nn.Linear(embed_dim, num_key_heads * self.head_dim)
        self.v_proj = nn.Linear(embed_dim, num_value_heads * self.head_dim)
        self.reset_projections()
        if query_expansion is not None:
            self.q_proj = AugmentedQuery(embed_dim, int(query_expansion * embed_dim))

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
        return masked_attention(
            q,
            _share(k, q.shape[1]),
            _share(v, q.shape[1]),
            None if key_padding_mask is None else ~key_padding_mask[:, None, None, :],
            is_causal=self.pattern is Pattern.CAUSAL_SELF,
            dropout=self.dropout if self.training else 0.0,
        )

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep every key and value, of their own number of heads."""
        return append(memory, position, key_padding_mask, k=k, v=v)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """One row of softmax per query, over the whole context or the tokens so far."""
        length = None if self.pattern.is_cross else position + q.shape[-2]
        return masked_attention(
            q,
            _share(memory["k"][:, :, :length], q.shape[1]),
            _share(memory["v"][:, :, :length], q.shape[1]),
            ~memory["padding"][:, None, None, :] if "padding" in memory else None,
        )

    def memory_elements(self, length: int) -> int:
        """All keys and values: N D for each head of keys and each head of values."""
        return self.num_kv(length)


def _share(x: Tensor, num_heads: int) -> Tensor:
    """(B, heads, N, D) to (B, num_heads, N, D), each head as often as queries read it."""
    # Torch's grouped kernels want as many heads of keys as of values, and are slow on others.
    group = num_heads // x.shape[1]
    return x[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2)
