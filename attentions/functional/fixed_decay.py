"""Linear attention whose memory forgets at one fixed rate per head: parallel forms and state.

Shapes: B batch, H heads, M query length, N length, F features of query and key, D width of the
values. Distances count positions, padded ones between two others too.
"""

import torch
from torch import Tensor

from attentions.functional.chunks import unpadded_length
from attentions.functional.scan import causal_scan


def decayed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    both_ways: bool = False,
    backend: str = "torch",
) -> Tensor:
    """out_i = sum of exp(log_decay |i - j|) (q_i . k_j) v_j over j up to i, or over every j.

    Args:
        q: (B, H, N, F).
        k: (B, H, N, F), zero where the key is to be ignored.
        v: (B, H, N, D).
        log_decay: (H,), at most 0.
        both_ways: Whether later positions count too, by a second scan from the end.
        backend: That of `causal_scan`.

    Returns:
        (B, H, N, D).
    """
    steps = log_decay[None, :, None].expand(1, -1, q.shape[-2])
    out = causal_scan(q, k, v, log_decay=steps, backend=backend)
    if both_ways:
        reverse = (x.flip(-2) for x in (q, k, v))
        behind = causal_scan(*reverse, log_decay=steps, backend=backend).flip(-2)
        own = (q * k).sum(dim=-1, keepdim=True) * v  # is in both
        out = out + behind - own
    return out


def decayed_sum(
    k: Tensor, v: Tensor, log_decay: Tensor, distance: Tensor, before: Tensor | None = None
) -> Tensor:
    """The state after N more positions: the sum of exp(log_decay distance_j) k_j v_j^T.

    Args:
        k: (B, H, N, F), zero where the key is to be ignored.
        v: (B, H, N, D).
        log_decay: (H,), at most 0.
        distance: (1 or B, N), from each position to the last.
        before: The state (B, H, F, D) before these positions; it decays by N. None for zero.

    Returns:
        (B, H, F, D).
    """
    weight = (log_decay[:, None] * distance[:, None]).exp()  # (1 or B, H, N)
    state = (k * weight[..., None]).mT @ v
    if before is not None:
        state = state + (log_decay * k.shape[-2]).exp()[:, None, None] * before
    return state


def distance_to_last(k: Tensor, padding_mask: Tensor | None) -> Tensor:
    """How far each position stands before the last that is not padding; zero after it.

    Args:
        k: (B, H, N, F); its dtype is the result's.
        padding_mask: Bool (B, N), True for padding; None for no padding.

    Returns:
        (1 or B, N).
    """
    position = torch.arange(k.shape[-2], device=k.device)
    last = unpadded_length(k, padding_mask)[:, None] - 1
    return (last - position).clamp(min=0).to(k.dtype)
