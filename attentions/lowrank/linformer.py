"""Linformer: keys and values projected along the sequence, to a fixed number of them.

Source: Wang et al., "Linformer: Self-Attention with Linear Complexity", 2020, arXiv:2006.04768.
E and F are shared by the heads (the paper's headwise sharing).
Departs from it: a shorter sequence uses the first columns of E and F (as in the codes), and padding
counts as zero. The maps to keys and values have biases, which E and F weigh as all else: E (X W +
1 b), as in LRA's code. The authors' code (in fairseq) applies E before these maps: E X W + 1 b.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern, State


class LinformerAttention(MultiHeadAttention):
    """softmax(Q (E K)^T / sqrt D) F V with learned E and F of (proj_len, max_len).

    Needs `max_len`, and refuses longer keys; in the cross patterns queries may be longer.

    Args:
        proj_len: Projected keys and values, the k of the paper.
        share_key_value: Whether one matrix serves as E and F (the paper's key-value sharing).
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS})
    refuses: ClassVar = {
        Pattern.CAUSAL_SELF: "each projected key mixes all positions: a later one would leak"
    }
    drops_weights = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        proj_len: int,
        share_key_value: bool,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if proj_len < 1:
            self._fail(f"proj_len must be positive, got {proj_len}")
        if self.max_len is None:
            self._fail("needs max_len, the columns of its projections, got None")
        self.key_proj_len = self._length_projection(proj_len)
        # None, not the same matrix again: a state_dict would hold it under both names.
        self.value_proj_len = None if share_key_value else self._length_projection(proj_len)

    def _length_projection(self, proj_len: int) -> nn.Parameter:
        assert self.max_len is not None
        weight = nn.Parameter(torch.empty(proj_len, self.max_len))
        nn.init.xavier_uniform_(weight, gain=2**-0.5)  # the authors' code
        return weight

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `Attention.attend`."""
        q, memory = self._queries(query), self._project(context, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, memory["k"], memory["v"], dropout_p=dropout)
        return self._merge(mixed)

    @torch.no_grad()
    def init_state(
        self,
        batch_size: int,
        context: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> State:
        """See `Attention.init_state`."""
        self._check_decoding(batch_size, context, key_padding_mask)
        assert context is not None  # the one causal pattern is a cross one
        return State(0, self._project(context, key_padding_mask))

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the projected keys."""
        return F.scaled_dot_product_attention(q, memory["k"], memory["v"])

    def memory_elements(self, length: int) -> int:
        """R projected keys and values: 2 R E."""
        return self.num_kv(len(self.key_proj_len))

    def _project(self, context: Tensor, padding: Tensor | None) -> dict[str, Tensor]:
        """The projected keys and values (B, H, proj_len, D) of the whole context (B, N, E).

        E (X W + 1 b) is computed as (E X) W + (E 1) b: no position has a key or value of its own.
        """
        length = context.shape[1]
        assert self.max_len is not None
        if length > self.max_len:
            what = "a context" if self.pattern.is_cross else "a sequence"
            self._fail(f"{what} of length {length} is longer than max_len = {self.max_len}")
        ones = context.new_ones(1, length, 1)
        if padding is not None:
            context, ones = (x.masked_fill(padding[..., None], 0.0) for x in (context, ones))
        for_keys = self.key_proj_len[:, :length]
        sums = for_keys @ context, for_keys @ ones  # (B, proj_len, E) and (1 or B, proj_len, 1)
        memory = {"k": self._project_rows(self.k_proj, *sums)}
        if self.value_proj_len is not None:
            for_values = self.value_proj_len[:, :length]
            sums = for_values @ context, for_values @ ones
        return memory | {"v": self._project_rows(self.v_proj, *sums)}

    def _project_rows(self, proj: nn.Linear, rows: Tensor, weights: Tensor) -> Tensor:
        """proj of weighted sums of positions, whose weights sum up to other than one."""
        projected = F.linear(rows, proj.weight)
        projected = projected + (weights * proj.bias).to(projected.dtype)
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
