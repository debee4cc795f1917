"""Causal sums of outer products that forget feature by feature, at rates that the data set.

Shapes: B batch, H heads, L length, F features of query and key, D width of the values, C chunk
size, T number of chunks, n blocks of b positions in a chunk.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.functional import fla
from attentions.functional.chunks import in_chunks


def gated_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    both_ways: bool = False,
    chunk_size: int = 64,
    backend: str = "torch",
) -> Tensor:
    """Unnormalised linear attention whose memory is gated: out_i = q_i S_i, where

        S_i = diag(exp(log_decay_i)) S_{i-1} + k_i v_i^T.

    Scores of later queries with earlier keys are built by joining neighbouring blocks, from single
    positions up to a chunk: the queries of the second block carry the decay since its start, the
    keys of the first the decay until its end. No decay is ever divided by another, nor a difference
    taken of their logarithms, so that nothing overflows or cancels, however strong they are. With
    gradients, memory is 2 log2 C copies of q and k, and L C + 4 L F D / C numbers.

    Args:
        q: (B, H, L, F).
        k: (B, H, L, F), zero where the key is to be ignored.
        v: (B, H, L, D).
        log_decay: (B, H, L, F), at most 0; zero where a position is to be passed over.
        both_ways: Whether later positions count too, by a second scan from the end.
        chunk_size: Positions per chunk, a power of two; the result does not depend on it.
        backend: "torch", or "fla" for the kernels of `attentions.functional.fla`.

    Returns:
        (B, H, L, D).
    """
    if both_ways:
        settings = {"chunk_size": chunk_size, "backend": backend}
        ahead = gated_scan(q, k, v, log_decay, **settings)
        reverse = (x.flip(-2) for x in (q, k, v, log_decay))
        behind = gated_scan(*reverse, **settings).flip(-2)
        return ahead + behind - (q * k).sum(dim=-1, keepdim=True) * v  # the own is in both
    if backend == "fla":
        return fla.gated_scan(q, k, v, log_decay)
    length, size = q.shape[-2], 1
    while size < min(length, chunk_size):
        size *= 2
    q, k, v = (in_chunks(x, size) for x in (q, k, v))  # (B, H, T, C, width)
    decay = in_chunks(log_decay, size).exp()[..., None, :]  # (B, H, T, n, 1, F): of a whole block
    scores = (q * k).sum(dim=-1)[..., None, None]  # (B, H, T, n, b, b)
    q, k = q[..., None, :] * decay, k[..., None, :]  # (B, H, T, n, b, F)
    while scores.shape[-1] < size:
        (s1, s2), (q1, q2), (k1, k2), (d1, d2) = map(_pairs, (scores, q, k, decay))
        above = F.pad(s1, (0, s1.shape[-1]))
        scores = torch.cat([above, torch.cat([q2 @ k1.mT, s2], dim=-1)], dim=-2)
        q = torch.cat([q1, q2 * d1], dim=-2)
        k = torch.cat([k1 * d2, k2], dim=-2)
        decay = d1 * d2
    scores, q, k, decay = (x[..., 0, :, :] for x in (scores, q, k, decay))
    out = scores @ v
    if length > size:
        out = out + q @ _states_before(k.mT @ v, decay.mT)
    return out.flatten(2, 3)[:, :, :length]


def gated_state(k: Tensor, v: Tensor, log_decay: Tensor, before: Tensor | None = None) -> Tensor:
    """The state S_L of the recurrence of `gated_scan` after L more positions.

    Args:
        k: (B, H, L, F), zero where the key is to be ignored.
        v: (B, H, L, D).
        log_decay: (B, H, L, F), at most 0; zero where a position is to be passed over.
        before: The state (B, H, F, D) before these positions; None for zero.

    Returns:
        (B, H, F, D).
    """
    until_end = log_decay.flip(-2).cumsum(dim=-2).flip(-2)  # the own decay included
    state = (k * F.pad(until_end[..., 1:, :], (0, 0, 0, 1)).exp()).mT @ v
    if before is not None:
        state = state + until_end[..., 0, :, None].exp() * before
    return state


def _pairs(blocks: Tensor) -> tuple[Tensor, ...]:
    """The first and the second of each two blocks (..., n, b, width)."""
    return blocks.unflatten(-3, (-1, 2)).unbind(dim=-3)


def _states_before(x: Tensor, decay: Tensor) -> Tensor:
    """The state before each step of S_t = decay_t S_{t-1} + x_t, from S = 0.

    Two steps are one step of half as many: twice the work of a loop, in log2 T rounds.

    Args:
        x: (..., T, F, D).
        decay: (..., T, F, 1).

    Returns:
        (..., T, F, D).
    """
    steps = x.shape[-3]
    if steps == 1:
        return torch.zeros_like(x)
    if steps % 2:
        x, decay = (F.pad(t, (0, 0, 0, 0, 0, 1)) for t in (x, decay))
    (x1, x2), (d1, d2) = _pairs(x), _pairs(decay)
    before = _states_before(d2 * x1 + x2, d1 * d2)
    return torch.stack([before, d1 * before + x1], dim=-3).flatten(-4, -3)[..., :steps, :, :]
