"""Synthesizer: softmax over logits that are synthesised without keys.

Source: Tay et al., "Synthesizer: Rethinking Self-Attention in Transformer Models", ICML 2021,
arXiv:2005.00743; the shapes of LRA's code and of the authors' in Mesh TensorFlow.
Departs from them: every head has its own second layer (the codes share one, the paper counts
parameters as here), which has no bias (as the authors' code; LRA's has one); the cross patterns are
ours. LRA's code (cd31e5c) also reshapes the logits of the dense form where heads and rows were to
be transposed, so that a row there belongs to another query and head.

Shapes: B batch, H heads, M query length, N context length, D head_dim.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.growing import append
from attentions.functional.masked import masked_attention


class Synthesizer(MultiHeadAttention):
    """softmax(B) V, where a subclass writes the logits B as products of two factors.

    So they are those of softmax attention with learned keys, one for each position, and torch's
    kernels need not materialise B. Needs `max_len`, and refuses longer sequences of keys.
    """

    drops_weights = True

    def __init__(self, embed_dim: int, num_heads: int, pattern: Pattern, **common: Any) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if self.max_len is None:
            self._fail("needs max_len, the positions that have logits, got None")
        self.k_proj = nn.Identity()  # there are no keys to project

    def factors(self, q: Tensor, num_keys: int, position: int) -> tuple[Tensor, Tensor]:
        """L (1 or B, H, M, R) and R (H, num_keys, R) of the logits L R^T.

        Args:
            q: (B, H, M, D), of queries that stand at `position` and after.
        """
        raise NotImplementedError

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`; k is not read."""
        is_causal = self.pattern is Pattern.CAUSAL_SELF
        return self._weigh(q, v, 0, key_padding_mask, is_causal=is_causal)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep every value."""
        self._check_length(position + v.shape[-2])
        return append(memory, position, key_padding_mask, v=v)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """One row of softmax per query, over the whole context or the tokens so far."""
        length = None if self.pattern.is_cross else position + q.shape[-2]
        return self._weigh(q, memory["v"][:, :, :length], position, memory.get("padding"))

    def memory_elements(self, length: int) -> int:
        """All values: N E."""
        return length * self.embed_dim

    def _weigh(
        self,
        q: Tensor,
        v: Tensor,
        position: int,
        key_padding_mask: Tensor | None,
        *,
        is_causal: bool = False,
    ) -> Tensor:
        self._check_length(v.shape[-2])
        left, right = self.factors(q, v.shape[-2], position)
        # Equally wide, as the fused kernels want them.
        width = max(left.shape[-1], v.shape[-1])
        right = right.to(v.dtype) * width**0.5  # undoes the scale of the kernels
        mixed = masked_attention(
            _widen(left.to(v.dtype), width).expand(len(v), -1, -1, -1),
            _widen(right, width).expand(len(v), -1, -1, -1),
            _widen(v, width),
            None if key_padding_mask is None else ~key_padding_mask[:, None, None, :],
            is_causal=is_causal,
            dropout=self.dropout if self.training else 0.0,
        )
        return mixed[..., : v.shape[-1]]

    def _check_length(self, length: int) -> None:
        assert self.max_len is not None
        if length > self.max_len:
            what = "a context" if self.pattern.is_cross else "a sequence"
            self._fail(f"{what} of length {length} is longer than max_len = {self.max_len}")


class DenseSynthesizer(Synthesizer):
    """B_i = W_2 relu(W_1 x_i + b_1), one logit for each position up to `max_len`.

    q_proj is W_1. The logits know a key by its position only; in the cross patterns too, where
    queries may be more than `max_len`.
    """

    patterns = frozenset(Pattern)

    def __init__(self, embed_dim: int, num_heads: int, pattern: Pattern, **common: Any) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        assert self.max_len is not None
        self.second_layer = nn.Parameter(torch.empty(num_heads, self.max_len, self.head_dim))
        nn.init.normal_(self.second_layer, std=self.head_dim**-0.5)

    def factors(self, q: Tensor, num_keys: int, position: int) -> tuple[Tensor, Tensor]:
        """relu(W_1 x + b_1) and W_2."""
        return q.relu(), self.second_layer[:, :num_keys]


class RandomSynthesizer(Synthesizer):
    """B = R_1 R_2^T, the same for every input: the paper's factorised random synthesizer.

    With `rank` = `max_len` it has every matrix of logits, as the paper's unfactorised one.

    Args:
        rank: Columns of R_1 and R_2, the k of the paper.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = dict.fromkeys(
        (Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS), "the output would not read the query"
    )

    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, rank: int, **common: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if rank < 1:
            self._fail(f"rank must be positive, got {rank}")
        assert self.max_len is not None
        self.q_proj = nn.Identity()
        self.query_factor = nn.Parameter(torch.empty(num_heads, self.max_len, rank))
        self.key_factor = nn.Parameter(torch.empty(num_heads, self.max_len, rank))
        for factor in (self.query_factor, self.key_factor):
            nn.init.normal_(factor, std=rank**-0.25)  # logits of variance 1

    def factors(self, q: Tensor, num_keys: int, position: int) -> tuple[Tensor, Tensor]:
        """The rows of R_1 and R_2 at the positions of queries and keys."""
        rows = self.query_factor[None, :, position : position + q.shape[-2]]
        return rows, self.key_factor[:, :num_keys]


def _widen(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))
