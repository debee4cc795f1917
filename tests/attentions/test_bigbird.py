"""BigBird where it is exact, its random blocks, and its memory."""

import pytest
import torch

from attentions.base import Pattern, UnsupportedPattern
from attentions.sparse.bigbird import BigBirdAttention
from tests.attentions.claims import build, draw, holes, inputs

CLAIMED = sorted(BigBirdAttention.patterns)


def bigbird(pattern: Pattern, **settings: int) -> BigBirdAttention:
    attention = build("bigbird", pattern, **settings)
    assert isinstance(attention, BigBirdAttention)
    return attention


@pytest.mark.parametrize("pattern", CLAIMED)
@pytest.mark.parametrize("settings", [{"num_random": 15}, {"block_size": 14}, {"block_size": 99}])
def test_seeing_every_block_it_is_softmax_attention(
    pattern: Pattern, settings: dict[str, int]
) -> None:
    attention = bigbird(pattern, **settings)
    softmax = build("softmax", pattern)
    softmax.load_state_dict(attention.state_dict(), strict=False)
    query, _ = inputs(pattern, 70)  # 18 blocks of 4, or 5 of 14 with 2 random ones, or 1
    mask = holes(1, 3, 70)[1:2].expand(2, -1)
    for padding in (None, mask):
        actual = attention(query, key_padding_mask=padding)
        torch.testing.assert_close(actual, softmax(query, key_padding_mask=padding))


@pytest.mark.parametrize("pattern", CLAIMED)
def test_random_blocks_differ_from_the_others_and_are_drawn_evenly(pattern: Pattern) -> None:
    # Row 12 of 20 blocks: 15 or 10 are left to draw from, in 8 heads of 16 seeds.
    others = {0, 11, 12} if pattern is Pattern.CAUSAL_SELF else {0, 11, 12, 13, 19}
    num_left = 10 if pattern is Pattern.CAUSAL_SELF else 15
    counts = torch.zeros(20)
    for seed in range(200):
        attention = bigbird(pattern, seed=seed, num_heads=4, num_random=3)
        seen = attention._visible(torch.tensor([12]), torch.tensor([20]))[0, :, 0]
        for head in seen.tolist():
            assert len(set(head)) == len(others) + 3
            counts[list(set(head) - others)] += 1
    expected = 4 * 200 * 3 / num_left
    drawn = counts[counts > 0]
    assert len(drawn) == num_left
    # Binomial: its standard deviation is below sqrt(expected).
    assert ((drawn - expected).abs() < 4 * expected**0.5).all()


def test_heads_and_seeds_have_other_random_blocks() -> None:
    first, again, other = (bigbird(Pattern.NONCAUSAL_SELF, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.draws, again.draws)
    assert not torch.equal(first.draws, other.draws)
    assert not torch.equal(first.draws[0], first.draws[1])


def test_the_global_blocks_are_the_first_and_the_last_that_is_not_padding() -> None:
    attention = bigbird(Pattern.NONCAUSAL_SELF, num_random=0)
    query, _ = inputs(Pattern.NONCAUSAL_SELF, 60)
    padding = (torch.arange(60) >= 50).expand(2, -1)
    reference = attention(query, key_padding_mask=padding)
    moved = []
    for position in (3, 24, 49):  # in block 0, 6 and 12
        other = query.clone()
        other[:, position] = 5.0
        change = (attention(other, key_padding_mask=padding) - reference).abs().amax(-1)[0]
        rows = (change > 1e-6).nonzero().flatten()
        moved.append({block for block in (rows // 4).tolist() if block <= 12})
    assert moved == [set(range(13)), {0, 5, 6, 7, 12}, set(range(13))]


def test_memory_holds_every_token() -> None:
    attention = bigbird(Pattern.CAUSAL_SELF)
    _, state = attention.prefill(draw(0, 3, 20, 16), attention.init_state(3))
    assert state.num_bytes == 3 * 2 * 20 * 16 * 8  # batch, k and v, tokens, embed_dim, float64
    for _ in range(20):
        _, state = attention.step(draw(0, 3, 1, 16), state)
    assert state.num_bytes == 3 * 2 * 40 * 16 * 8  # doubled once


@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS])
def test_cross_is_refused_with_the_reason(pattern: Pattern) -> None:
    with pytest.raises(UnsupportedPattern, match="places in the query's own sequence"):
        build("bigbird", pattern)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("block_size", 0, "block_size must be positive, got 0"),
        ("block_size", -2, "block_size must be positive, got -2"),
        ("num_random", -1, "num_random must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_refused(setting: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("bigbird", Pattern.CAUSAL_SELF, **{setting: value})
