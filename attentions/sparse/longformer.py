"""Longformer: a sliding window, and a few global tokens that see all and are seen by all.

Source: Beltagy et al., "Longformer: The Long-Document Transformer", 2020, arXiv:2004.05150; as in
the authors' code a query finds the global tokens by their ordinary keys, and the global tokens'
own rows come from a second set of projections, which starts as a copy of the first.
Departs from it: no dilation, which the paper has in its language models alone. The paper's causal
models have no global tokens; here they are seen by all after them and see nothing ahead, so that
they need no second projections.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attentions import masks
from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.flex import flex_masked_attention
from attentions.functional.masked import masked_attention
from attentions.functional.window import window_attention

_UNALIGNED = "window and global tokens are places in the query's own sequence"


class LongformerAttention(MultiHeadAttention):
    """softmax(Q K^T / sqrt D) V over the keys near the query and the first `num_global` ones.

    Noncausal: the keys j with |i - j| <= window / 2; the first `num_global` queries attend to every
    key, and for them q_proj, k_proj and v_proj have as many heads again. Causal: the keys up to
    window / 2 before the query and its own.

    Args:
        window: Keys on both sides together, even.
        num_global: Global tokens, the first of the sequence; padding among them is ignored.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = {Pattern.NONCAUSAL_CROSS: _UNALIGNED, Pattern.CAUSAL_CROSS: _UNALIGNED}
    backends: ClassVar = {"flex": patterns}
    drops_weights = True
    takes_rotary = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        window: int,
        num_global: int,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if window < 2 or window % 2:
            self._fail(f"window must be even and positive, got {window}")
        if num_global < 0:
            self._fail(f"num_global must be at least 0, got {num_global}")
        self.reach = window // 2
        self.num_global = num_global
        if num_global and self.pattern is Pattern.NONCAUSAL_SELF:
            self.q_proj, self.k_proj, self.v_proj = (
                _doubled(proj) for proj in (self.q_proj, self.k_proj, self.v_proj)
            )

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`; the heads of the second set stand behind the others."""
        length, num_global = q.shape[2], min(self.num_global, q.shape[2])
        is_causal = self.pattern is Pattern.CAUSAL_SELF
        dropout = self.dropout if self.training else 0.0
        first, second = slice(self.num_heads), slice(-self.num_heads, None)
        rows = []
        if num_global:
            # The causal ones see nothing but each other, which is all that came before them.
            seen = num_global if is_causal else length
            rows.append(
                masked_attention(
                    q[:, second, :num_global],
                    k[:, second, :seen],
                    v[:, second, :seen],
                    None if key_padding_mask is None else ~key_padding_mask[:, None, None, :seen],
                    is_causal=is_causal,
                    dropout=dropout,
                )
            )
        after = 0 if is_causal else self.reach
        if length > num_global and self.backend == "flex":
            # All rows, so that blocks of queries and keys begin together.
            sees = masks.either(masks.window(self.reach, after), masks.first_keys(num_global))
            out = flex_masked_attention(
                q[:, first], k[:, first], v[:, first], sees, key_padding_mask=key_padding_mask
            )
            rows.append(out[:, :, num_global:])
        elif length > num_global:
            rows.append(
                window_attention(
                    q[:, first, num_global:],
                    k[:, first],
                    v[:, first],
                    before=self.reach,
                    after=after,
                    centre=torch.arange(num_global, length, device=q.device)[None],
                    num_shared=num_global,
                    key_padding_mask=key_padding_mask,
                    dropout=dropout,
                )
            )
        return torch.cat(rows, dim=2)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep the global keys and values, and behind them those of the last window."""
        end, ring = position + k.shape[-2], self.reach + 1
        since = max(position, self.num_global, end - ring)
        # Positions of new global tokens, and of the last ones that are not.
        ends = (position, max(position, min(self.num_global, end))), (since, max(since, end))
        kept = torch.cat([torch.arange(*each, device=k.device) for each in ends])
        in_ring = self.num_global + (kept - self.num_global) % ring
        slots = torch.where(kept < self.num_global, kept, in_ring)
        new = {"k": k, "v": v}
        if not memory:
            size = (*k.shape[:2], self.num_global + ring, k.shape[-1])
            memory = {name: x.new_zeros(size) for name, x in new.items()}
        return {
            name: memory[name].index_copy_(2, slots, x[:, :, kept - position])
            for name, x in new.items()
        }

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the slots filled so far; their order does not matter."""
        filled = slice(position + 1)  # a slice ends where the slots do
        return masked_attention(q, memory["k"][:, :, filled], memory["v"][:, :, filled])

    def memory_elements(self, length: int) -> int:
        """The global keys and values, and those of one window: 2 (g + w / 2 + 1) E."""
        return self.num_kv(self.num_global + self.reach + 1)


def _doubled(proj: nn.Linear) -> nn.Linear:
    """The projection twice, one below the other, to learn apart."""
    twice = nn.Linear(proj.in_features, 2 * proj.out_features)
    with torch.no_grad():
        twice.weight.copy_(proj.weight.repeat(2, 1))
        twice.bias.copy_(proj.bias.repeat(2))
    return twice
