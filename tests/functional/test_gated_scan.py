"""The gated scan against the recurrence that it stands for, in float64."""

import pytest
import torch
from torch import Tensor

from attentions.functional.gated_scan import gated_scan, gated_state
from attentions.functional.scan import causal_scan


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """q_i S_i with S_i = diag(exp(log_decay_i)) S_{i-1} + k_i v_i^T, and the last state."""
    if state is None:
        state = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1], dtype=k.dtype)
    rows = []
    for i in range(q.shape[2]):
        decay = log_decay[:, :, i, :, None].exp()
        state = decay * state + k[:, :, i, :, None] * v[:, :, i, None, :]
        rows.append((q[:, :, i, None, :] @ state)[:, :, 0])
    return torch.stack(rows, dim=2), state


def draw(length: int, strongest: float = 2.0) -> list[Tensor]:
    """q, k and log_decay (2, 3, length, 4), v (2, 3, length, 5)."""
    q, k, v, decay = (torch.randn(2, 3, length, n, dtype=torch.float64) for n in (4, 4, 5, 4))
    return [q, k, v, -strongest * decay.sigmoid()]


# With chunks of 4 there are up to 25 of them: an odd number, and so are 3 and 13.
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 11, 50, 100])
@pytest.mark.parametrize("strongest", [0.01, 2.0, 50.0])
def test_scan_and_its_gradients_match_the_recurrence(length: int, strongest: float) -> None:
    leaves = [x.requires_grad_() for x in draw(length, strongest)]
    actual = gated_scan(*leaves, chunk_size=4)
    expected, _ = recurrence(*leaves)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    gradients = [
        torch.autograd.grad(out, leaves, upstream, materialize_grads=True)  # one position: no decay
        for out in (actual, expected)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("chunk_size", [1, 8, 64, 256])
def test_chunk_size_does_not_matter(chunk_size: int) -> None:
    leaves = draw(130)
    expected, _ = recurrence(*leaves)
    torch.testing.assert_close(gated_scan(*leaves, chunk_size=chunk_size), expected)


def test_weak_decays_after_strong_ones_keep_float32_exact() -> None:
    # Differences of sums over a chunk, the exponents of the usual forms, lose 60 to 160 eps here.
    q, k, v, weak = draw(200, 0.1)
    log_decay = torch.where(torch.arange(200)[:, None] % 37 < 9, -50.0, weak)
    expected, _ = recurrence(q, k, v, log_decay)
    actual = gated_scan(*(x.float() for x in (q, k, v, log_decay)))
    largest = expected.abs().amax().item()
    assert (actual - expected).abs().amax().item() < 20 * torch.finfo(torch.float32).eps * largest


@pytest.mark.parametrize("gate", [-50.0, -1e4, -torch.inf])
def test_a_closed_gate_leaves_the_own_position_and_finite_gradients(gate: float) -> None:
    leaves = [x.float() for x in draw(150)]
    leaves[3] = torch.full_like(leaves[3], gate)
    q, k, v, _ = leaves = [x.requires_grad_() for x in leaves]
    out = gated_scan(*leaves)
    torch.testing.assert_close(out, (q * k).sum(dim=-1, keepdim=True) * v)
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.square().sum(), leaves))


def test_without_decay_it_is_the_plain_scan() -> None:
    q, k, v, log_decay = draw(130)
    actual = gated_scan(q, k, v, torch.zeros_like(log_decay))
    torch.testing.assert_close(actual, causal_scan(q, k, v))


def test_with_equal_features_it_is_the_scan_with_a_decay_per_head() -> None:
    q, k, v, log_decay = draw(130)
    same = log_decay[..., 0]
    actual = gated_scan(q, k, v, same[..., None].expand_as(log_decay))
    torch.testing.assert_close(actual, causal_scan(q, k, v, log_decay=same))


def test_both_ways_is_each_way_once() -> None:
    leaves = draw(70)
    ahead, _ = recurrence(*leaves)
    behind, _ = recurrence(*[x.flip(2) for x in leaves])
    q, k, v, _ = leaves
    own = (q * k).sum(dim=-1, keepdim=True) * v
    actual = gated_scan(*leaves, both_ways=True)
    torch.testing.assert_close(actual, ahead + behind.flip(2) - own)


@pytest.mark.parametrize("length", [1, 5, 100])
def test_state_goes_on_from_the_one_before(length: int) -> None:
    leaves = draw(30 + length)
    _, *first = (x[:, :, :30] for x in leaves)
    _, *second = (x[:, :, 30:] for x in leaves)
    _, expected = recurrence(*leaves)
    torch.testing.assert_close(gated_state(*second, before=gated_state(*first)), expected)
