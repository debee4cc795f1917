"""Attention to listed keys against softmax attention under a dense mask."""

import pytest
import torch
from torch import Tensor

from attentions.functional.gathered_blocks import gathered_attention


def dense(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the allowed keys, zero without any."""
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp() * allowed
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-30) @ v


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("query_len", "key_len"), [(1, 1), (7, 30), (8, 8), (9, 5)])
def test_lists_of_keys_match_a_dense_mask(query_len: int, key_len: int, per_sample: bool) -> None:
    size, batch_size = 4, 3
    lengths = (query_len, key_len, key_len)
    q, k, v = leaves = [
        torch.randn(batch_size, 2, n, 5, dtype=torch.float64, requires_grad=True) for n in lengths
    ]
    num_blocks = -(-query_len // size)
    rows = batch_size if per_sample else 1
    # Each key at most once, some beyond either end.
    keys = torch.stack([torch.randperm(key_len + 6)[:6] - 3 for _ in range(rows * num_blocks)])
    keys = keys.view(rows, num_blocks, 6)
    allowed = torch.rand(rows, num_blocks, size, 6) < 0.7
    padding = torch.rand(batch_size, key_len) < 0.2

    table = torch.zeros(batch_size, query_len, key_len, dtype=torch.bool)
    for b in range(batch_size):
        for i in range(query_len):
            block = min(b, rows - 1), i // size
            for w, j in enumerate(keys[block].tolist()):
                if 0 <= j < key_len and allowed[block][i % size, w]:
                    table[b, i, j] = not padding[b, j]
    actual = gathered_attention(q, k, v, keys, allowed, key_padding_mask=padding)
    expected = dense(q, k, v, table[:, None])
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    gradients = [torch.autograd.grad(out, leaves, upstream) for out in (actual, expected)]
    torch.testing.assert_close(*gradients)
