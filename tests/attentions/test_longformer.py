"""Longformer where it is exact, its two sets of projections, and its memory."""

import pytest
import torch

from attentions.base import Attention, Pattern, UnsupportedPattern
from attentions.sparse.longformer import LongformerAttention
from tests.attentions.claims import build, draw, holes, inputs

CLAIMED = sorted(LongformerAttention.patterns)


def half(attention: Attention, which: int) -> dict[str, torch.Tensor]:
    """The weights of softmax attention with the first or the second set of projections."""
    state = attention.state_dict()
    return {
        name: x if len(x) == 16 else x.chunk(2)[which]  # embed_dim rows, or twice that
        for name, x in state.items()
    }


@pytest.mark.parametrize("pattern", CLAIMED)
@pytest.mark.parametrize("settings", [{"window": 140}, {"num_global": 100}, {"num_global": 70}])
def test_seeing_everything_it_is_softmax_attention(
    pattern: Pattern, settings: dict[str, int]
) -> None:
    longformer = build("longformer", pattern, **settings)
    softmax = build("softmax", pattern)
    every_row = "num_global" in settings
    softmax.load_state_dict(half(longformer, 1 if every_row else 0))
    query, _ = inputs(pattern, 70)
    mask = holes(1, 2, 70) & (torch.arange(70) > 2)
    rows = slice(None) if every_row else slice(2, None)  # the two global ones have other weights
    actual = longformer(query, key_padding_mask=mask)[:, rows]
    torch.testing.assert_close(actual, softmax(query, key_padding_mask=mask)[:, rows])


@pytest.mark.parametrize("pattern", CLAIMED)
def test_without_global_tokens_it_is_a_sliding_window(pattern: Pattern) -> None:
    longformer = build("longformer", pattern, num_global=0, window=10)
    window = build("local_window", pattern, window=6 if pattern is Pattern.CAUSAL_SELF else 5)
    window.load_state_dict(longformer.state_dict())
    query, _ = inputs(pattern, 40)
    torch.testing.assert_close(longformer(query), window(query))


def test_every_token_sees_the_global_ones_and_they_see_every_token() -> None:
    longformer = build("longformer", Pattern.NONCAUSAL_SELF)
    query, _ = inputs(Pattern.NONCAUSAL_SELF, 60)
    first, last = query.clone(), query.clone()
    first[:, 1], last[:, -1] = 5.0, 5.0
    moved = [((longformer(x) - longformer(query)).abs().amax(-1) > 1e-6)[0] for x in (first, last)]
    assert moved[0].all()
    assert moved[1].tolist() == [True] * 2 + [False] * 54 + [True] * 4  # global, and the window


def test_the_second_set_starts_as_a_copy_of_the_first() -> None:
    longformer = LongformerAttention(16, 2, Pattern.NONCAUSAL_SELF, window=4, num_global=1)
    for proj in (longformer.q_proj, longformer.k_proj, longformer.v_proj):
        first, second = proj.weight.chunk(2)
        assert torch.equal(first, second)
        assert proj.bias.shape == (32,)
        assert not proj.bias.any()
    causal = LongformerAttention(16, 2, Pattern.CAUSAL_SELF, window=4, num_global=1)
    assert causal.q_proj.weight.shape == (16, 16)


def test_memory_holds_the_global_tokens_and_half_a_window() -> None:
    longformer = build("longformer", Pattern.CAUSAL_SELF, window=8, num_global=3)
    state = longformer.init_state(5)
    for _ in range(20):
        _, state = longformer.step(draw(0, 5, 1, 16), state)
        # batch, k and v, global and window / 2 + 1, embed_dim, float64
        assert state.num_bytes == 5 * 2 * (3 + 5) * 16 * 8


@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS])
def test_cross_is_refused_with_the_reason(pattern: Pattern) -> None:
    with pytest.raises(UnsupportedPattern, match="places in the query's own sequence"):
        build("longformer", pattern)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("window", 0, "window must be even and positive, got 0"),
        ("window", -2, "window must be even and positive, got -2"),
        ("window", 5, "window must be even and positive, got 5"),
        ("num_global", -1, "num_global must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_refused(setting: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("longformer", Pattern.CAUSAL_SELF, **{setting: value})
