"""Landmark attention: a token after each block says how much of the block is read.

Source: Mohtashami and Jaggi, "Landmark Attention: Random-Access Infinite Context Length for
Transformers", NeurIPS 2023, arXiv:2305.16300. As in the authors' code a landmark's own query reads
the block before it, and nobody reads the value of a landmark.
The landmarks are tokens of the input: whoever makes the input puts one after every `block_size`
ordinary ones and leaves it out of the loss. An ordinary token that stands there serves as one.
Departs from the authors' code: the weights are those of one softmax with a bias for each query and
block, computed a few queries at a time.

Shapes: B batch, H heads, M queries, D head_dim, C blocks, l block_size.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.chunks import in_chunks
from attentions.functional.growing import append

_UNALIGNED = "blocks and landmarks are places in the query's own sequence"
_QUERIES = 128  # at a time, about


class LandmarkAttention(MultiHeadAttention):
    """Softmax over the query's own block and the earlier landmarks, which share out what they get.

    What a landmark gets is shared out among the l tokens of its block by a softmax of their own.

    Args:
        block_size: Ordinary tokens per block, l; the landmark comes behind them.
        num_retrieved: In evaluation each query reads that many earlier blocks, those whose
            landmarks score best; None for all of them, as in training.
    """

    patterns = frozenset({Pattern.CAUSAL_SELF})
    refuses: ClassVar = {
        Pattern.NONCAUSAL_SELF: "a landmark stands for the block before it to those after it",
        Pattern.NONCAUSAL_CROSS: _UNALIGNED,
        Pattern.CAUSAL_CROSS: _UNALIGNED,
    }
    drops_weights = True
    trains_otherwise = "every block is read, not the best few"
    full_precision = True
    takes_rotary = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        block_size: int,
        num_retrieved: int | None,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if block_size < 1:
            self._fail(f"block_size must be positive, got {block_size}")
        if num_retrieved is not None and num_retrieved < 1:
            self._fail(f"num_retrieved must be positive or null, got {num_retrieved}")
        self.block_size = block_size
        self.num_retrieved = num_retrieved

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
        length, size = q.shape[2], self.block_size + 1
        step = size * max(1, _QUERIES // size)
        rows = []
        for start in range(0, length, step):
            end = min(start + step, length)
            padding = None if key_padding_mask is None else key_padding_mask[:, :end]
            inputs = q[:, :, start:end], k[:, :, :end], v[:, :, :end], padding
            # Scores are computed again in the backward pass: they would be M N numbers in all.
            rows.append(checkpoint(self._last_rows, *inputs, use_reentrant=False))
        return torch.cat(rows, dim=2)

    def _last_rows(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
        """Answer queries (B, H, M, D) that stand on the last positions of the keys."""
        size = self.block_size + 1
        end = k.shape[2]
        k, v = in_chunks(k, size), in_chunks(v, size)  # (B, H, C, l + 1, D)
        position = torch.arange(end - q.shape[2], end, device=q.device)[:, None]  # (M, 1)
        block = torch.arange(k.shape[2], device=q.device)
        place = block[:, None] * size + torch.arange(size, device=q.device)  # (C, l + 1)
        allowed = place <= position[..., None]  # (M, C, l + 1)
        if padding is not None:
            allowed = allowed & in_chunks(~padding[:, None, None, :, None], size)[..., 0]
        own = block == position // size
        return self._attend(q, k, v, allowed, own, None if self.training else self.num_retrieved)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep every key and value: some later query may retrieve any block."""
        return append(memory, position, k=k, v=v)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Fetch the blocks with the best landmarks, and attend to them and to the query's own."""
        size = self.block_size + 1
        num_past, inside = divmod(position, size)
        start = num_past * size
        past = {name: x[:, :, :start].unflatten(2, (num_past, size)) for name, x in memory.items()}
        if self.num_retrieved is not None and num_past > self.num_retrieved:
            scores = (past["k"][..., -1, :] @ q.mT)[..., 0]  # (B, H, C)
            best = scores.topk(self.num_retrieved).indices[..., None, None]
            past = {name: x.take_along_dim(best, dim=2) for name, x in past.items()}
        own = {name: x[:, :, start : position + 1] for name, x in memory.items()}
        own = {name: F.pad(x, (0, 0, 0, size - inside - 1))[:, :, None] for name, x in own.items()}
        k, v = (torch.cat([past[name], own[name]], dim=2) for name in ("k", "v"))
        is_own = torch.arange(k.shape[2], device=q.device) == k.shape[2] - 1
        allowed = ~is_own[:, None] | (torch.arange(size, device=q.device) <= inside)
        return self._attend(q, k, v, allowed, is_own, None)

    def memory_elements(self, length: int) -> int:
        """All keys and values: 2 N E."""
        return self.num_kv(length)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        allowed: Tensor,
        own: Tensor,
        num_retrieved: int | None,
    ) -> Tensor:
        """Attend to blocks of keys and values (B, H, C, l + 1, D); the rest see `_logits`."""
        scores = self.head_dim**-0.5 * q @ k.flatten(2, 3).mT
        logits, readable = _logits(scores.unflatten(-1, k.shape[2:4]), allowed, own, num_retrieved)
        weights = F.dropout(logits.flatten(-2).softmax(dim=-1), self.dropout, self.training)
        out = weights @ v[..., :-1, :].flatten(2, 3)
        return out.masked_fill(~readable.any(dim=-1, keepdim=True), 0.0)


def _logits(
    scores: Tensor, allowed: Tensor, own: Tensor, num_retrieved: int | None
) -> tuple[Tensor, Tensor]:
    """The grouped softmax as one softmax, of which these are the logits.

    A token j of another block b gets exp(s_b) / Z * exp(s_j) / sum over b of exp(s): it is as if
    s_j had the bias s_b - log sum over b of exp(s).

    Args:
        scores: (B, H, M, C, l + 1), of each block's tokens and behind them of its landmark.
        allowed: Bool, broadcasts to the scores' shape, False for padding and what is later.
        own: Bool (M, C), whether a block is the query's own, of which it skips the landmark.
        num_retrieved: How many other blocks are read, those of the best landmarks; None for all.

    Returns:
        (B, H, M, C, l), and bool, broadcasts to (B, H, M, C): the blocks with anything to read.
    """
    tokens, landmark = scores[..., :-1], scores[..., -1]
    filled = allowed[..., :-1].any(dim=-1)
    reached = filled & allowed[..., -1] & ~own
    if num_retrieved is not None and scores.shape[-2] > num_retrieved:
        ranked = landmark.masked_fill(~reached, -torch.inf)
        best = ranked.topk(num_retrieved, dim=-1).indices
        reached = reached & torch.zeros_like(ranked, dtype=torch.bool).scatter(-1, best, True)
    readable = reached | (own & filled)
    tokens = tokens.masked_fill(~allowed[..., :-1], -1e30)
    bias = torch.where(reached, landmark - tokens.logsumexp(dim=-1), 0.0)
    return tokens + bias.masked_fill(~readable, -1e30)[..., None], readable
