"""ProbSparse attention: only the queries that stand out attend, the others get the mean value.

Source: Zhou et al., "Informer", AAAI 2021, arXiv:2012.07436, section 3.1 and algorithm 1.
Departs from the reference code: the sampled keys are the same for every query (algorithm 1 writes
S = Q K_sampled^T), so that the sampling is a matrix product instead of a gather of B*H*M*U*D
numbers; and they come from a seeded buffer, so that two passes agree.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern

_LEAK = "which queries attend is decided by comparing all of them: a later one would leak"


class ProbSparseAttention(MultiHeadAttention):
    """Full softmax attention for c ln M queries, the mean of the values for the rest.

    Args:
        factor: The c of the paper: c ceil(ln M) queries attend, and they are chosen by their
            scores against c ceil(ln N) sampled keys.
        seed: Draws the sampled keys, others in each layer.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS})
    refuses: ClassVar = {Pattern.CAUSAL_SELF: _LEAK, Pattern.CAUSAL_CROSS: _LEAK}
    draws: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        factor: int = 5,
        seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if factor < 1:
            self._fail(f"factor must be positive, got {factor}")
        self.factor = factor
        self.register_buffer("draws", key_draws(factor, seed + self.layer))

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
        measure = sparsity(q, k, self.draws, self.factor, key_padding_mask)
        num_active = log_count(self.factor, q.shape[-2])
        if query_padding_mask is not None:
            measure = measure.masked_fill(query_padding_mask[:, None], -math.inf)
        active = measure.topk(num_active).indices[..., None].expand(-1, -1, -1, q.shape[-1])
        attended, mean = attend_and_mean(q.gather(2, active), k, v, key_padding_mask)
        if query_padding_mask is not None:
            # As many as the sequence would have without its padding, best first.
            rank = torch.arange(num_active, device=q.device)
            keep = rank < log_counts(self.factor, query_padding_mask)[:, None]
            attended = torch.where(keep[:, None, :, None], attended, mean)
        return mean.expand_as(q).scatter(2, active, attended)


def key_draws(factor: int, seed: int) -> Tensor:
    """Integers whose remainder by the number of keys says which keys are sampled.

    Being integers, they survive a change of the module's dtype. There are enough of them for any
    length: c ceil(ln 2^32).
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2**62, (factor * 23,), generator=generator)


def log_count(factor: int, length: int) -> int:
    """c ceil(ln length), at least c, at most the length."""
    return min(factor * max(1, math.ceil(math.log(length))), length)


def log_counts(factor: int, padding: Tensor) -> Tensor:
    """`log_count` of the unpadded length of each row of a padding mask (B, N): (B,)."""
    lengths = (~padding).sum(dim=-1)
    logs = lengths.double().clamp(min=2).log().ceil().long()
    return torch.minimum(factor * logs, lengths)


@torch.no_grad()
def sparsity(
    q: Tensor, k: Tensor, draws: Tensor, factor: int, key_padding_mask: Tensor | None = None
) -> Tensor:
    """How far the scores of each query are from uniform: (B, H, M), without gradient.

    The largest sampled score less the sum of the sampled scores over the number of keys: the
    paper has their mean, the reference code this.

    Args:
        q: (B, H, M, D).
        k: (B, H, N, D).
        draws: From `key_draws`.
        factor: c ceil(ln N) keys are sampled, with replacement.
        key_padding_mask: Bool (B, N), True where the key is padding and is not sampled.
    """
    num_keys = k.shape[-2]
    draws = draws[: log_count(factor, num_keys)]
    if key_padding_mask is None:
        scores = (q @ k[:, :, draws % num_keys].mT).float()  # (B, H, M, U)
        return scores.amax(dim=-1) - scores.sum(dim=-1) / num_keys
    lengths = (~key_padding_mask).sum(dim=-1, keepdim=True).clamp(min=1)
    unpadded_first = key_padding_mask.byte().argsort(dim=-1, stable=True)
    picks = unpadded_first.gather(1, draws % lengths)  # (B, U)
    picks = picks[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
    scores = (q @ k.gather(2, picks).mT).float()
    # A shorter row has fewer samples, as it would without its padding.
    rank = torch.arange(len(draws), device=q.device)
    beyond = (rank >= log_counts(factor, key_padding_mask)[:, None])[:, None, None]
    largest = scores.masked_fill(beyond, -math.inf).amax(dim=-1)
    return largest - scores.masked_fill(beyond, 0.0).sum(dim=-1) / lengths[:, None]


def attend_and_mean(
    q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Softmax attention of the active queries (B, H, u, D), and the mean value (B, H, 1, D)."""
    if key_padding_mask is None:
        return F.scaled_dot_product_attention(q, k, v), v.mean(dim=-2, keepdim=True)
    padding = key_padding_mask[:, None, :, None]
    lengths = (~padding).sum(dim=-2, keepdim=True)
    mean = v.masked_fill(padding, 0.0).sum(dim=-2, keepdim=True) / lengths.clamp(min=1)
    empty = lengths == 0
    # SDPA's mask is True where a query may attend. Without any key its softmax would be NaN,
    # gradients too: such rows attend to all, and get the mean, zero, in the end.
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=~padding.mT | empty)
    return torch.where(empty, mean, attended), mean.to(v.dtype)
