"""The delta rule in chunks: linear attention that corrects what its memory recalls of a key.

Source: Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length",
NeurIPS 2024, arXiv:2406.06484; with a decay, Yang et al., "Gated Delta Networks", ICLR 2025,
arXiv:2412.06464.

Shapes: B batch, H heads, L length, F features of query and key, D width of the values, C chunk
size, T number of chunks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from attentions.functional import fla
from attentions.functional.chunks import in_chunks
from attentions.functional.scan import decay_between


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    *,
    chunk_size: int = 64,
    backend: str = "torch",
) -> tuple[Tensor, Tensor]:
    """out_i = q_i S_i, where each state decays and then moves what k_i recalls towards v_i:

        S' = exp(log_decay_i) S_{i-1},  S_i = S' + beta_i k_i^T (v_i - k_i S').

    What a chunk writes solves a unit triangular system, for all chunks at once (the WY form); only
    the state goes from chunk to chunk, by one matrix product each. Memory is L (F + D + C) +
    L F (F + D) / C numbers.

    Args:
        q: (B, H, L, F).
        k: (B, H, L, F), of norm 1 at most, or the memory may grow without bound.
        v: (B, H, L, D).
        beta: (B, H, L), from 0, which ignores the position, to 1, which makes k recall v.
        log_decay: (B, H, L), at most 0; None for no decay.
        chunk_size: Positions per chunk; the result does not depend on it.
        backend: "torch", or "fla" for the kernels of `attentions.functional.fla`.

    Returns:
        The outputs (B, H, L, D) and the last state (B, H, F, D).
    """
    if backend == "fla":
        return fla.delta_rule(q, k, v, beta, log_decay)
    chunks = _chunks(k, v, beta, log_decay, chunk_size)
    states, last = _states(chunks)
    before = torch.stack(states, dim=2)  # (B, H, T, F, D)
    q = in_chunks(q, chunks.k.shape[-2])
    written = chunks.v - chunks.recall @ before
    out = ((q @ chunks.k.mT) * chunks.decay) @ written + (q * chunks.from_start) @ before
    return out.flatten(2, 3)[:, :, : k.shape[-2]], last


def delta_rule_state(
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    *,
    chunk_size: int = 64,
) -> Tensor:
    """The last state (B, H, F, D) of `delta_rule`, without its outputs."""
    return _states(_chunks(k, v, beta, log_decay, chunk_size))[1]


def delta_step(
    state: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None
) -> Tensor:
    """The state (B, H, F, D) after one more position; the others as in `delta_rule`, with L = 1."""
    if log_decay is not None:
        state = log_decay.exp()[..., None] * state
    return state + k.mT @ (beta[..., None] * (v - k @ state))


class _Chunks(NamedTuple):
    """What no state is needed for. Position i writes k_i^T (v_i - recall_i S), S the chunk's start.

    Attributes:
        k: (B, H, T, C, F).
        v: (B, H, T, C, D), as it would be written on an empty memory.
        recall: (B, H, T, C, F).
        decay: (B, H, T, C, C), from j to i; zero for j after i.
        from_start: (B, H, T, C, 1), the decay up to each position.
    """

    k: Tensor
    v: Tensor
    recall: Tensor
    decay: Tensor
    from_start: Tensor


def _chunks(
    k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, chunk_size: int
) -> _Chunks:
    chunk_size = min(chunk_size, k.shape[-2])
    if log_decay is None:
        log_decay = torch.zeros_like(beta[:1, :1])
    k, v, beta = (in_chunks(x, chunk_size) for x in (k, v, beta[..., None]))
    # exp(-50) is nothing beside 1, and sums of lower ones would round away the others.
    log_decay = in_chunks(log_decay.clamp(min=-50.0)[..., None], chunk_size)[..., 0].cumsum(dim=-1)
    decay = decay_between(log_decay, log_decay)
    from_start = log_decay.exp()[..., None]
    scaled = beta * k
    system = (scaled @ k.mT) * decay  # what is on its diagonal is taken for 1
    right = torch.cat([beta * v, from_start * scaled], dim=-1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    v, recall = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    return _Chunks(k, v, recall, decay, from_start)


def _states(chunks: _Chunks) -> tuple[list[Tensor], Tensor]:
    """The states (B, H, F, D) before each chunk, and the last: S becomes kept S + added."""
    to_end = chunks.decay[..., -1, :, None]
    k = (to_end * chunks.k).mT  # (B, H, T, F, C)
    added = k @ chunks.v
    eye = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device)
    kept = chunks.from_start[..., -1:, :] * eye - k @ chunks.recall
    state, before = torch.zeros_like(added[:, :, 0]), []
    for kept_here, added_here in zip(kept.unbind(2), added.unbind(2), strict=True):
        before.append(state)
        state = added_here + kept_here @ state
    return before, state
