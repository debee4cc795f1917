"""The chunked scan against the recurrence that it stands for, in float64."""

import pytest
import torch
from torch import Tensor

from attentions.functional.scan import causal_scan, exclusive_scan


def recurrence(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """out_i = q_i S_i with S_i = exp(log_decay_i) S_{i-1} + k_i v_i^T, position by position."""
    state = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1], dtype=k.dtype)
    rows = []
    for i in range(q.shape[2]):
        decay = log_decay[:, :, i].exp()[..., None, None]
        state = decay * state + k[:, :, i, :, None] * v[:, :, i, None, :]
        rows.append((q[:, :, i, None, :] @ state)[:, :, 0])
    return torch.stack(rows, dim=2)


def draw(length: int) -> list[Tensor]:
    """q and k (2, 3, length, 4), v (2, 3, length, 5), log_decay (2, 3, length)."""
    q, k, v = (torch.randn(2, 3, length, n, dtype=torch.float64) for n in (4, 4, 5))
    return [q, k, v, -2.0 * torch.rand(2, 3, length, dtype=torch.float64)]


# With chunks of 3 the groups of 16 chunks end at 48, and groups of groups at 768.
@pytest.mark.parametrize("length", [1, 2, 3, 4, 10, 47, 48, 49, 100, 800])
@pytest.mark.parametrize("decays", [False, True])
def test_scan_and_its_gradients_match_the_recurrence(length: int, decays: bool) -> None:
    leaves = [x.requires_grad_() for x in draw(length)]
    q, k, v, log_decay = leaves
    if not decays:
        leaves, log_decay = leaves[:3], torch.zeros_like(log_decay)
    actual = causal_scan(q, k, v, log_decay=log_decay if decays else None, chunk_size=3)
    expected = recurrence(q, k, v, log_decay)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    gradients = [torch.autograd.grad(out, leaves, upstream) for out in (actual, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
def test_chunk_size_does_not_matter(chunk_size: int) -> None:
    q, k, v, log_decay = draw(130)
    for decay in (None, log_decay):
        expected = causal_scan(q, k, v, log_decay=decay)
        actual = causal_scan(q, k, v, log_decay=decay, chunk_size=chunk_size)
        torch.testing.assert_close(actual, expected)


def test_a_strong_decay_forgets_and_nothing_overflows() -> None:
    q, k, v, log_decay = draw(200)
    forget = torch.full_like(log_decay, -100.0).requires_grad_()
    out = causal_scan(q, k, v, log_decay=forget)
    # Only the own position is left; exp(-100) is far below rounding.
    torch.testing.assert_close(out, (q * k).sum(dim=-1, keepdim=True) * v)
    (gradient,) = torch.autograd.grad(out.sum(), forget)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 15, 16, 17, 300])
@pytest.mark.parametrize("decays", [False, True])
def test_exclusive_scan_matches_the_recurrence(steps: int, decays: bool) -> None:
    x = torch.randn(2, steps, 3, 4, dtype=torch.float64)
    log_decay = -2.0 * torch.rand(2, steps, dtype=torch.float64) * decays
    state, rows = torch.zeros(2, 3, 4, dtype=torch.float64), []
    for t in range(steps):
        rows.append(state)
        state = log_decay[:, t, None, None].exp() * state + x[:, t]
    actual = exclusive_scan(x, log_decay if decays else None)
    torch.testing.assert_close(actual, torch.stack(rows, dim=1))
