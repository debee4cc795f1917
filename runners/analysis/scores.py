"""What a head attends to, in numbers: how spread, how far, how much to one key, to which token.

Weights can have signs (a delta rule takes back, a local regression extrapolates) and any sum. So
each score is one of shares: of the sizes |w| of a query's weights, divided by their sum. Where
weights are a softmax's, shares are the weights themselves. A query without any weight, or that is
padding, does not count.

Shapes: B batch, H heads, M query length, N key length, P read positions.
"""

import math

import torch
from torch import Tensor

from tasks.rules.answers import IGNORED


def shares(weights: Tensor) -> Tensor:
    """|w| over the sum of a query's |w|: (B, H, M, N), zero where all are."""
    sizes = weights.abs()
    total = sizes.sum(dim=-1, keepdim=True)
    return sizes / torch.where(total > 0, total, 1.0)


def counted(weights: Tensor, query_padding_mask: Tensor | None = None) -> Tensor:
    """Which queries have a say: bool (B, H, M), those with weights that are no padding."""
    has_any = (weights != 0).any(dim=-1)
    return has_any if query_padding_mask is None else has_any & ~query_padding_mask[:, None]


def entropy(share: Tensor, counts: Tensor) -> Tensor:
    """The mean over queries of -sum p log p, over log N: 0 for one key, 1 for all alike; (H,).

    In nats it is log N times that. In a causal map the first queries see few keys, and less than 1
    is the most: log(N!) / (N log N).

    Args:
        share: (B, H, M, N).
        counts: Bool (B, H, M).
    """
    nats = -torch.xlogy(share, share).sum(dim=-1)
    return _mean(nats, counts) / math.log(max(share.shape[-1], 2))


def distance(share: Tensor, counts: Tensor) -> Tensor:
    """The mean |i - j| of query and key, in tokens, of one sequence: (B, H, N, N) to (H,)."""
    i = torch.arange(share.shape[-2], device=share.device, dtype=share.dtype)
    j = torch.arange(share.shape[-1], device=share.device, dtype=share.dtype)
    return _mean((share * (i[:, None] - j).abs()).sum(dim=-1), counts)


def first_key(share: Tensor, counts: Tensor) -> Tensor:
    """The mean share of the first key, where attention sinks stand in language models: (H,)."""
    return _mean(share[..., 0], counts)


def sink(share: Tensor, counts: Tensor) -> Tensor:
    """The mean share of the key of an example that gets most of all, wherever it is: (H,)."""
    weight = counts.to(share.dtype)[..., None]
    per_key = (share * weight).sum(dim=2) / weight.sum(dim=2).clamp(min=1)  # (B, H, N)
    return _mean(per_key.amax(dim=-1), counts.any(dim=-1))


def retrieval(weights: Tensor, positions: Tensor, answers: Tensor, tokens: Tensor) -> Tensor:
    """The retrieval-head score: how often the largest weight lies on a token that is the answer.

    Source: Wu et al., "Retrieval Head Mechanistically Explains Long-Context Factuality", 2024,
    arXiv:2404.15574; there over the tokens of a needle as the model copies it.

    Args:
        weights: (B, H, M, N); the largest is that of the greatest size.
        positions: The queries at which answers are read, int64 (B, P).
        answers: int64 (B, P), `IGNORED` where there is none.
        tokens: The keys, int64 (B, N). An answer that is not among them does not count.

    Returns:
        (H,); nan without any answer among the keys.
    """
    holds = tokens[:, None] == answers[..., None]  # (B, P, N)
    counts = holds.any(dim=-1) & (answers != IGNORED)
    rows = positions[:, None, :, None].expand(-1, weights.shape[1], -1, weights.shape[-1])
    read = weights.gather(2, rows).abs()  # (B, H, P, N)
    found = holds[:, None].expand_as(read).gather(-1, read.argmax(dim=-1, keepdim=True))[..., 0]
    found = found & (read > 0).any(dim=-1)
    return _mean(found.to(weights.dtype), counts[:, None].expand_as(found))


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of values (B, H, ...) where they count: (H,)."""
    values, counts = (x.transpose(0, 1).flatten(1).double() for x in (values, counts))
    return (values * counts).sum(dim=1) / counts.sum(dim=1)
