"""Sparse Sinkhorn attention beside sinkhorn-transformer, given the same mixing matrix."""

import pytest
import torch
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.sparse.sinkhorn import SinkhornAttention
from tests.attentions.claims import build, draw
from tests.peers import peer

sinkhorn_transformer = peer("sinkhorn_transformer.sinkhorn_transformer")


class GivenSort(nn.Module):
    """In place of its sorting network: `mixing` (B, H, T, T), whatever is sorted."""

    def __init__(self, mixing: Tensor) -> None:
        super().__init__()
        self.mixing = mixing.flatten(0, 1)

    def forward(self, q: Tensor, k: Tensor, topk: int) -> Tensor:
        return self.mixing


def ours() -> SinkhornAttention:
    attention = build("sinkhorn", Pattern.NONCAUSAL_SELF, num_iterations=7, temperature=0.75)
    assert isinstance(attention, SinkhornAttention)
    return attention


def no_padding(num_blocks: int) -> Tensor:
    return torch.zeros(1, num_blocks, num_blocks, dtype=torch.bool)


def theirs(attention: SinkhornAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    size = attention.block_size
    module = sinkhorn_transformer.SinkhornAttention(size, 16, 8, 2, q.shape[2], sinkhorn_iter=7)
    blocks = k.unflatten(2, (-1, size))
    mixing = attention._balance(attention._logits(blocks), no_padding(blocks.shape[2]))
    module.sort_net = GivenSort(mixing)
    return module(q, k, v)


def test_the_mixing_is_the_same() -> None:
    logits = draw(0, 2, 2, 6, 6)
    expected = sinkhorn_transformer.sinkhorn_sorting_operator(logits.flatten(0, 1) / 0.75, 7)
    actual = ours()._balance(logits, no_padding(6))
    torch.testing.assert_close(actual.flatten(0, 1), expected)


def test_the_attention_is_the_same_with_keys_for_values() -> None:
    attention = ours()
    q, k = draw(0, 2, 2, 24, 8), draw(1, 2, 2, 24, 8)
    torch.testing.assert_close(attention.mix(q, k, k), theirs(attention, q, k, k))


def test_there_the_sorted_values_are_the_sorted_keys() -> None:
    # Its line reads b_v_r = b_k_r: what attends to the sorted block gets keys.
    attention = ours()
    q, k, v = (draw(seed, 2, 2, 24, 8) for seed in range(3))
    other = theirs(attention, q, k, v)
    assert (attention.mix(q, k, v) - other).abs().max() > 0.1
    with pytest.MonkeyPatch.context() as patch:
        mixed = iter(2 * [k.unflatten(2, (-1, 4))])
        patch.setattr(
            "attentions.sparse.sinkhorn._mixed",
            lambda mixing, _: (mixing @ next(mixed).flatten(-2)).unflatten(-1, (4, 8)),
        )
        torch.testing.assert_close(attention.mix(q, k, v), other)
