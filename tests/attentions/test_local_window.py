"""Local attention beside softmax and its peers."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from attentions.base import Pattern, UnsupportedPattern
from attentions.sparse.local_window import LocalWindowAttention
from tests.attentions.claims import build, draw, inputs

CLAIMED = sorted(LocalWindowAttention.patterns)


@pytest.mark.parametrize("pattern", CLAIMED)
def test_a_window_as_long_as_the_sequence_is_softmax_attention(pattern: Pattern) -> None:
    local = build("local_window", pattern, window=70)
    softmax = build("softmax", pattern)
    softmax.load_state_dict(local.state_dict())
    query, context = inputs(pattern, 70)
    torch.testing.assert_close(local(query, context), softmax(query, context))


@pytest.mark.slow  # the peer imports the compiler
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF])
def test_equals_flex_attention_under_the_same_mask(pattern: Pattern) -> None:
    def near(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        causal = pattern is Pattern.CAUSAL_SELF
        return (i - j >= 0) & (i - j < 5) if causal else (i - j).abs() <= 5

    local = build("local_window", pattern, window=5)
    assert isinstance(local, LocalWindowAttention)
    q, k, v = (draw(seed, 2, 2, 70, 8) for seed in range(3))
    peer = flex_attention(q, k, v, block_mask=create_block_mask(near, 1, 1, 70, 70, device="cpu"))
    assert isinstance(peer, Tensor)
    torch.testing.assert_close(local.mix(q, k, v), peer)


def test_memory_holds_just_the_window() -> None:
    local = build("local_window", Pattern.CAUSAL_SELF, window=6)
    state = local.init_state(3)
    for _ in range(20):
        _, state = local.step(draw(0, 3, 1, 16), state)
        assert state.num_bytes == 3 * 2 * 6 * 16 * 8  # batch, k and v, window, embed_dim, float64


def test_causal_cross_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedPattern, match="depends on how many will come"):
        build("local_window", Pattern.CAUSAL_CROSS)


@pytest.mark.parametrize("window", [0, -3])
def test_window_must_be_positive(window: int) -> None:
    with pytest.raises(ValueError, match=f"window must be positive, got {window}"):
        build("local_window", Pattern.CAUSAL_SELF, window=window)
