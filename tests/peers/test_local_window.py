"""Windowed and block-local attention beside local-attention."""

import pytest
import torch
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern
from tests.attentions.claims import build, draw
from tests.peers import peer

local_attention = peer("local_attention")

BOTH = [Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF]


def ours(name: str, pattern: Pattern, **settings: int) -> MultiHeadAttention:
    attention = build(name, pattern, **settings)
    assert isinstance(attention, MultiHeadAttention)
    return attention


def qkv(length: int) -> list[Tensor]:
    return [draw(seed, 2, 2, length, 8) for seed in range(3)]


@pytest.mark.parametrize("pattern", BOTH)
@pytest.mark.parametrize("padded", [False, True])
def test_equals_its_exact_window(pattern: Pattern, padded: bool) -> None:
    # Its causal window counts the keys before the query's own, ours that one too.
    is_causal = pattern is Pattern.CAUSAL_SELF
    attention = ours("local_window", pattern, window=7 if is_causal else 6)
    theirs = local_attention.LocalAttention(6, causal=is_causal, exact_windowsize=True)
    q, k, v = qkv(42)
    padding = torch.zeros(2, 42, dtype=torch.bool)
    padding[1, 3:6] = padding[1, 35:] = padded
    actual = attention.mix(q, k, v, key_padding_mask=padding)
    expected = theirs(q, k, v, mask=~padding)
    torch.testing.assert_close(actual[:, :, :34], expected[:, :, :34])


@pytest.mark.parametrize("pattern", BOTH)
def test_block_local_equals_it_without_looking_around(pattern: Pattern) -> None:
    attention = ours("block_local", pattern, block_size=6)
    is_causal = pattern is Pattern.CAUSAL_SELF
    theirs = local_attention.LocalAttention(6, causal=is_causal, look_backward=0, look_forward=0)
    q, k, v = qkv(42)
    torch.testing.assert_close(attention.mix(q, k, v), theirs(q, k, v))


def test_its_default_window_ends_at_blocks_of_keys() -> None:
    # Without `exact_windowsize` a query sees its block and the one before: between 7 and 12 keys.
    attention = ours("local_window", Pattern.CAUSAL_SELF, window=12)
    theirs = local_attention.LocalAttention(6, causal=True)
    q, k, v = qkv(42)
    actual, expected = attention.mix(q, k, v), theirs(q, k, v)
    block_ends = slice(5, None, 6)
    torch.testing.assert_close(actual[:, :, block_ends], expected[:, :, block_ends])
    block_starts = slice(12, None, 6)
    assert (actual - expected)[:, :, block_starts].abs().amax() > 1e-2


def test_zeros_that_fill_its_last_block_take_part_in_the_softmax() -> None:
    attention = ours("local_window", Pattern.NONCAUSAL_SELF, window=6)
    theirs = local_attention.LocalAttention(6, exact_windowsize=True, autopad=True)
    q, k, v = qkv(40)
    actual, expected = attention.mix(q, k, v), theirs(q, k, v)
    torch.testing.assert_close(actual[:, :, :34], expected[:, :, :34])
    assert (actual - expected)[:, :, 34:].abs().amax() > 1e-2
    filled = [torch.cat([x, x.new_zeros(2, 2, 2, 8)], dim=2) for x in (q, k, v)]
    torch.testing.assert_close(attention.mix(*filled)[:, :, :40], expected)
