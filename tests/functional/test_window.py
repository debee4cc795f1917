"""Blocked windows against softmax attention under a dense mask."""

import pytest
import torch
from torch import Tensor

from attentions.functional.chunks import unpadded_length
from attentions.functional.masked import masked_attention
from attentions.functional.window import aligned_centres, window_attention


def dense(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the allowed keys, zero without any."""
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp() * allowed
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-30) @ v


def draw(query_len: int, key_len: int) -> list[Tensor]:
    lengths = (query_len, key_len, key_len)
    return [torch.randn(2, 3, n, 4, dtype=torch.float64, requires_grad=True) for n in lengths]


@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (40, 0), (0, 7), (200, 200)])
def test_window_and_its_gradients_match_a_dense_mask(length: int, before: int, after: int) -> None:
    q, k, v = leaves = draw(length, length)
    offset = torch.arange(length) - torch.arange(length)[:, None]
    allowed = (-before <= offset) & (offset <= after)
    actual = window_attention(q, k, v, before=before, after=after)
    expected = dense(q, k, v, allowed)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    gradients = [torch.autograd.grad(out, leaves, upstream) for out in (actual, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("num_shared", [1, 5, 50])
def test_shared_keys_are_seen_by_every_query_once(num_shared: int) -> None:
    q, k, v = draw(50, 50)
    offset = torch.arange(50) - torch.arange(50)[:, None]
    allowed = (offset >= -2) & (offset <= 0) | (torch.arange(50) < num_shared)
    actual = window_attention(q, k, v, before=2, after=0, num_shared=num_shared)
    torch.testing.assert_close(actual, dense(q, k, v, allowed))


@pytest.mark.parametrize(
    ("query_len", "key_len"), [(1, 1), (1, 50), (50, 1), (90, 30), (30, 90), (7, 500), (100, 99)]
)
def test_aligned_windows_match_a_dense_mask(query_len: int, key_len: int) -> None:
    q, k, v = draw(query_len, key_len)
    query_padding = torch.zeros(2, query_len, dtype=torch.bool)
    key_padding = torch.zeros(2, key_len, dtype=torch.bool)
    query_padding[1, query_len // 2 + 1 :] = True
    key_padding[1, key_len // 3 + 1 :] = True
    centre, stride = aligned_centres(q, k, query_padding, key_padding)
    gap = (torch.arange(key_len) - centre[..., None]).abs()  # (B, M, N)
    allowed = (gap <= 2) & ~key_padding[:, None]
    actual = window_attention(
        q, k, v, before=2, after=2, centre=centre, stride=stride, key_padding_mask=key_padding
    )
    torch.testing.assert_close(actual, dense(q, k, v, allowed[:, None]))
    # Both ends of the shorter sample are aligned with its own length.
    shorter = slice(0, query_len // 2 + 1), slice(0, key_len // 3 + 1)
    alone, _ = aligned_centres(q[1:, :, shorter[0]], k[1:, :, shorter[1]])
    assert torch.equal(centre[1:, shorter[0]], alone)


def test_centres_are_symmetric_and_equal_lengths_meet() -> None:
    q = torch.zeros(1, 1, 4, 1)
    assert aligned_centres(q, torch.zeros(1, 1, 12, 1))[0].tolist() == [[1, 4, 7, 10]]
    assert aligned_centres(q, torch.zeros(1, 1, 4, 1))[0].tolist() == [[0, 1, 2, 3]]
    assert aligned_centres(q, torch.zeros(1, 1, 2, 1))[0].tolist() == [[0, 0, 1, 1]]


def test_unpadded_length_reaches_to_the_last_that_counts() -> None:
    mask = torch.tensor([[False, False, False], [False, True, True], [True, False, True]])
    x = torch.zeros(4, 3, 1)
    everything = torch.cat([mask, torch.ones(1, 3, dtype=torch.bool)])
    assert unpadded_length(x, everything).tolist() == [3, 1, 2, 1]
    assert unpadded_length(x, None).tolist() == [3]


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_query_without_keys_gets_zero_and_finite_gradients(is_causal: bool) -> None:
    q, k, v = leaves = draw(5, 5)
    allowed = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    allowed[0], allowed[1, ..., 0] = False, False
    square = torch.ones(5, 5, dtype=torch.bool)
    out = masked_attention(q, k, v, allowed, is_causal=is_causal)
    expected = dense(q, k, v, allowed & square.tril() if is_causal else allowed)
    torch.testing.assert_close(out, expected)
    assert not out[0].any()
    gradients = torch.autograd.grad(out.square().sum(), leaves)
    assert all(g.isfinite().all() for g in gradients)
