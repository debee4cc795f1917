"""The running softmax against a dense table of weights for each slot, in float64."""

import pytest
import torch
from torch import Tensor

from attentions.functional.running_softmax import RunningSoftmax


def dense(logits: Tensor) -> Tensor:
    """The weight of position j in slot r at position t: (B, H, L, R) to (B, H, R, t, j)."""
    length = logits.shape[-2]
    table = logits.mT[..., None, :].expand(-1, -1, -1, length, -1)
    table = table.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf)
    return table.softmax(dim=-1).nan_to_num(0.0)


def draw(length: int) -> list[Tensor]:
    """Logits and slot weights (2, 3, length, 5), q, k, v (2, 3, length, 4)."""
    sizes = (5, 5, 4, 4, 4)
    return [torch.randn(2, 3, length, n, dtype=torch.float64, requires_grad=True) for n in sizes]


# With blocks of 2 the groups of 16 blocks end at 32.
@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 70])
def test_scores_and_reads_match_the_dense_table(length: int) -> None:
    logits, weights, q, k, v = leaves = draw(length)
    running = RunningSoftmax(logits, block_size=2)
    actual = torch.cat([running.scores(q, k), running.read(weights, v)], dim=-1)
    table = dense(logits)
    scores = torch.einsum("bhtd,bhrtj,bhjd->bhtr", q, table, k)
    read = torch.einsum("bhtr,bhrtj,bhjd->bhtd", weights, table, v)
    expected = torch.cat([scores, read], dim=-1)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    gradients = [torch.autograd.grad(out, leaves, upstream) for out in (actual, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("block_size", [1, 3, 8, 100])
def test_block_size_does_not_matter(block_size: int) -> None:
    logits, _, q, k, _ = draw(50)
    actual = RunningSoftmax(logits, block_size=block_size).scores(q, k)
    torch.testing.assert_close(actual, RunningSoftmax(logits).scores(q, k))


def test_huge_logits_choose_the_largest_so_far_and_stay_finite() -> None:
    _, _, q, k, _ = draw(40)
    for sign in (1.0, -1.0):  # the largest is the newest, or the first
        rising = sign * 1e4 * torch.arange(40.0, dtype=torch.float64)
        logits = rising[:, None].expand(2, 3, 40, 5).clone().requires_grad_()
        scores = RunningSoftmax(logits).scores(q, k)
        chosen = k if sign > 0 else k[:, :, :1]
        expected = (q * chosen).sum(dim=-1, keepdim=True).expand_as(scores)
        torch.testing.assert_close(scores, expected)
        (gradient,) = torch.autograd.grad(scores.sum(), logits)
        assert gradient.isfinite().all()


def test_positions_left_out_have_no_weight() -> None:
    logits, weights, _, _, v = draw(20)
    out = torch.zeros(20, dtype=torch.bool)
    out[:3] = out[9] = True
    masked = logits.masked_fill(out[:, None], -torch.inf)
    actual = RunningSoftmax(masked).read(weights, v)
    table = dense(masked)
    torch.testing.assert_close(actual, torch.einsum("bhtr,bhrtj,bhjd->bhtd", weights, table, v))
    assert not actual[:, :, :3].any()
    gradients = torch.autograd.grad(actual.square().sum(), [logits, weights, v])
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("length", [8, 9])  # a whole block, and one that is filled up
def test_gradients_are_finite_where_logits_are_large(length: int) -> None:
    logits = torch.full((1, 1, length, 2), 1000.0, requires_grad=True)
    x = torch.randn(1, 1, length, 4, requires_grad=True)
    softmax = RunningSoftmax(logits)
    out = softmax.read(softmax.scores(x, x), x)
    gradients = torch.autograd.grad(out.sum(), [logits, x])
    assert all(gradient.isfinite().all() for gradient in gradients)
