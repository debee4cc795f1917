"""Local attention: softmax over the keys within a window around the query.

Source: the window of Luong et al., "Effective Approaches to Attention-based Neural Machine
Translation", 2015, arXiv:1508.04025; "local" in CAB, ICML 2023.
Departs from CAB: a key is excluded when it is out of the window or padding (CAB: and); the keys are
copied once per block of queries instead of once per query; the noncausal cross pattern is ours.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from attentions import masks
from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.flex import flex_masked_attention
from attentions.functional.masked import masked_attention
from attentions.functional.window import aligned_centres, window_attention


class LocalWindowAttention(MultiHeadAttention):
    """softmax(Q K^T / sqrt D) V over the keys near the query.

    Noncausal: the 2 window + 1 keys j with |i - j| <= window. Causal: the `window` keys up to and
    with the query's own. Noncausal cross: the 2 window + 1 keys around the place where query i
    stands if both sequences take equally long.

    Args:
        window: How far, in positions, a query sees.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_CROSS})
    refuses = {  # noqa: RUF012
        Pattern.CAUSAL_CROSS: "where a query stands on the context depends on how many will come"
    }
    backends: ClassVar = {"flex": patterns}
    drops_weights = True
    takes_rotary = True

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, window: int, **common: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if window < 1:
            self._fail(f"window must be positive, got {window}")
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
        """See `MultiHeadAttention.mix`."""
        before, after = self.window, self.window
        centre, stride = None, 1.0
        if self.pattern is Pattern.CAUSAL_SELF:
            before, after = self.window - 1, 0
        elif self.pattern is Pattern.NONCAUSAL_CROSS:
            centre, stride = aligned_centres(q, k, query_padding_mask, key_padding_mask)
        if self.backend == "flex":
            near = (before, after)
            sees = masks.window(*near) if centre is None else masks.window_around(centre, *near)
            return flex_masked_attention(q, k, v, sees, key_padding_mask=key_padding_mask)
        return window_attention(
            q,
            k,
            v,
            before=before,
            after=after,
            centre=centre,
            stride=stride,
            key_padding_mask=key_padding_mask,
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
        """Keep the last `window` keys and values, position p in slot p mod window."""
        end = position + k.shape[-2]
        kept = min(self.window, k.shape[-2])
        slots = torch.arange(end - kept, end, device=k.device) % self.window
        new = {"k": k, "v": v}
        if not memory:
            size = (*k.shape[:2], self.window, k.shape[-1])
            memory = {name: x.new_zeros(size) for name, x in new.items()}
        return {
            name: memory[name].index_copy_(2, slots, x[:, :, -kept:]) for name, x in new.items()
        }

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the slots filled so far; their order does not matter."""
        filled = min(self.window, position + 1)
        return masked_attention(q, memory["k"][:, :, :filled], memory["v"][:, :, :filled])

    def memory_elements(self, length: int) -> int:
        """One window of keys and values: 2 w E."""
        return self.num_kv(self.window)
