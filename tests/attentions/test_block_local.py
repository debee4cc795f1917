"""Block-local attention beside softmax, and its memory."""

import pytest
import torch

from attentions.base import Pattern, UnsupportedPattern
from attentions.sparse.block_local import BlockLocalAttention
from tests.attentions.claims import build, draw, inputs

CLAIMED = sorted(BlockLocalAttention.patterns)


@pytest.mark.parametrize("pattern", CLAIMED)
@pytest.mark.parametrize("block_size", [70, 1000])
def test_a_block_as_long_as_the_sequence_is_softmax_attention(
    pattern: Pattern, block_size: int
) -> None:
    local = build("block_local", pattern, block_size=block_size)
    softmax = build("softmax", pattern)
    softmax.load_state_dict(local.state_dict())
    query, _ = inputs(pattern, 70)
    torch.testing.assert_close(local(query), softmax(query))


@pytest.mark.parametrize("pattern", CLAIMED)
def test_each_block_is_a_sequence_of_its_own(pattern: Pattern) -> None:
    local = build("block_local", pattern, block_size=6)
    softmax = build("softmax", pattern)
    softmax.load_state_dict(local.state_dict())
    query, _ = inputs(pattern, 20)
    alone = torch.cat([softmax(block) for block in query.split(6, dim=1)], dim=1)
    torch.testing.assert_close(local(query), alone)


def test_memory_holds_just_one_block() -> None:
    local = build("block_local", Pattern.CAUSAL_SELF, block_size=6)
    state = local.init_state(3)
    for _ in range(20):
        _, state = local.step(draw(0, 3, 1, 16), state)
        assert state.num_bytes == 3 * 2 * 6 * 16 * 8  # batch, k and v, block, embed_dim, float64


@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS])
def test_cross_is_refused_with_the_reason(pattern: Pattern) -> None:
    with pytest.raises(UnsupportedPattern, match="nothing says which block of the context"):
        build("block_local", pattern)


@pytest.mark.parametrize("block_size", [0, -3])
def test_block_size_must_be_positive(block_size: int) -> None:
    with pytest.raises(ValueError, match=f"block_size must be positive, got {block_size}"):
        build("block_local", Pattern.CAUSAL_SELF, block_size=block_size)
