"""Causal sums of outer products in chunks: the parallel form of every linear attention.

Shapes: B batch, H heads, L length, F features of query and key, D width of the values, C chunk
size, T number of chunks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.functional import fla
from attentions.functional.chunks import in_chunks


def causal_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    chunk_size: int = 64,
    backend: str = "torch",
) -> Tensor:
    """Unnormalised causal linear attention, with or without a decay: out_i = q_i S_i, where

        S_i = exp(log_decay_i) S_{i-1} + k_i v_i^T.

    Inside a chunk this is a masked matrix product; one state (F, D) is carried from chunk to
    chunk, so memory is L (F + D + C) + L F D / C numbers and no state is kept per position.

    Args:
        q: (B, H, L, F).
        k: (B, H, L, F).
        v: (B, H, L, D).
        log_decay: (B, H, L), at most 0; None for no decay. Sums of it over a chunk should stay
            where exp can tell them apart: below -100 is as good as -100.
        chunk_size: Positions per chunk; the result does not depend on it.
        backend: "torch", or "fla" for the kernels of `attentions.functional.fla`.

    Returns:
        (B, H, L, D).
    """
    if backend == "fla":
        return fla.causal_scan(q, k, v, log_decay)
    length = q.shape[-2]
    chunk_size = min(chunk_size, length)
    q, k, v = (in_chunks(x, chunk_size) for x in (q, k, v))
    scores = q @ k.mT  # (B, H, T, C, C)
    if log_decay is None:
        out = scores.tril() @ v
        if length > chunk_size:
            out = out + q @ exclusive_scan(k.mT @ v)
    else:
        log_decay = in_chunks(log_decay[..., None], chunk_size)[..., 0].cumsum(dim=-1)
        out = (scores * decay_between(log_decay, log_decay)) @ v
        if length > chunk_size:
            total = log_decay[..., -1:]  # (B, H, T, 1)
            states = (k * (total - log_decay).exp()[..., None]).mT @ v
            out = out + (q * log_decay.exp()[..., None]) @ exclusive_scan(states, total[..., 0])
    return out.flatten(2, 3)[:, :, :length]


def exclusive_scan(x: Tensor, log_decay: Tensor | None = None, *, group_size: int = 16) -> Tensor:
    """The state before each step of S_t = exp(log_decay_t) S_{t-1} + x_t, from S = 0.

    A product with a triangle inside groups, then the same over the groups' totals: two to four
    levels in practice, linear time, and on a CPU twice as fast as a cumulative sum.

    Args:
        x: (..., T, F, D).
        log_decay: (..., T), at most 0; None for no decay.
        group_size: Steps per group; the result does not depend on it.

    Returns:
        (..., T, F, D); the first is zero.
    """
    steps, shape = x.shape[-3], x.shape[-2:]
    group_size = min(group_size, steps)
    x = in_chunks(x.flatten(-2), group_size)  # (..., groups, group_size, F D)
    if log_decay is None:
        after = before = None
        weights = torch.ones(group_size, group_size, dtype=x.dtype, device=x.device).tril(-1)
    else:
        after = in_chunks(log_decay[..., None], group_size)[..., 0].cumsum(dim=-1)
        before = F.pad(after, (1, -1))
        weights = decay_between(before, after, diagonal=-1)
    out = weights @ x
    if steps > group_size:
        if after is None or before is None:
            out = out + exclusive_scan(x.sum(dim=-2)[..., None, :], group_size=group_size)
        else:
            totals = (after[..., -1:] - after).exp()[..., None, :] @ x
            carried = exclusive_scan(totals, after[..., -1], group_size=group_size)
            out = out + before.exp()[..., None] * carried
    return out.flatten(-3, -2)[..., :steps, :].unflatten(-1, shape)


def decay_between(to: Tensor, since: Tensor, *, diagonal: int = 0) -> Tensor:
    """exp(to_i - since_j) for j up to i + diagonal, zero for later j: (..., C) to (..., C, C)."""
    later = torch.ones(to.shape[-1], to.shape[-1], dtype=torch.bool, device=to.device)
    # Masked before the exponential, which would overflow there, and its gradient with it.
    gap = to[..., :, None] - since[..., None, :]
    return gap.masked_fill(later.triu(diagonal + 1), -torch.inf).exp()


def running_max(x: Tensor, dim: int) -> Tensor:
    """The largest of x so far, without gradient; finite, also where all so far was -inf."""
    return x.detach().cummax(dim=dim).values.clamp(min=-1e30)


def stabiliser_decay(top: Tensor) -> Tensor:
    """The log decay of sums that are kept relative to a running maximum (..., L)."""
    before = F.pad(top[..., :-1], (1, 0))
    # At most 0 at the first position, before which there is nothing; and never so low that the sum
    # of decays over a chunk could not tell later ones apart. exp(-100) is zero beside 1.
    return (before - top).clamp(min=-100.0, max=0.0)
