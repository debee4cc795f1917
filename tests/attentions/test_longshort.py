"""Long-short attention where it is exact, its summaries, and its memory."""

import pytest
import torch
import torch.nn.functional as F

from attentions.base import Pattern, UnsupportedPattern
from attentions.lowrank.longshort import LongShortAttention
from attentions.softmax.rel_mha import RelativeAttention
from tests.attentions.claims import build, draw, inputs

each_pattern = pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF])


def longshort(pattern: Pattern, **settings: int) -> LongShortAttention:
    attention = build("longshort", pattern, **settings)
    assert isinstance(attention, LongShortAttention)
    return attention


def without_distances(attention: LongShortAttention) -> None:
    """The causal pattern has scores by distance: with these at zero it has none."""
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            if "distance" in name or name == "content_bias":
                parameter.zero_()


@each_pattern
@pytest.mark.parametrize("window", [40, 99])
def test_without_a_summary_all_in_the_window_is_softmax_over_normed_keys(
    pattern: Pattern, window: int
) -> None:
    attention = longshort(pattern, window=window)
    without_distances(attention)
    with torch.no_grad():  # every summary is -1e4, against queries around 1e2: of no weight
        attention.q_proj.bias.fill_(1e2)
        attention.long_norm.weight.zero_()
        attention.long_norm.bias.fill_(-1e4)
    query, _ = inputs(pattern, 40)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (2, 8)).transpose(1, 2)

    q = heads(attention.q_proj(query))
    k, v = (heads(attention.short_norm(p(query))) for p in (attention.k_proj, attention.v_proj))
    causal = pattern is Pattern.CAUSAL_SELF
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    expected = attention.out_proj(expected.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(query), expected)


@pytest.mark.parametrize("window", [40, 99])
def test_causal_all_in_the_window_is_relative_attention_over_normed_keys(window: int) -> None:
    attention = longshort(Pattern.CAUSAL_SELF, window=window, chunk_size=41)
    relative = build("rel_mha", Pattern.CAUSAL_SELF)
    assert isinstance(relative, RelativeAttention)
    with torch.no_grad():  # there u and w are added before the division by sqrt D
        relative.distance_proj.weight.copy_(attention.distance_proj.weight)
        relative.content_bias.copy_(8**0.5 * attention.content_bias)
        relative.distance_bias.copy_(8**0.5 * attention.distance_bias)
    q, k, v = (draw(seed, 2, 2, 40, 8) for seed in range(3))
    normed = (
        attention.short_norm(x.transpose(1, 2).flatten(2)).unflatten(-1, (2, 8)).transpose(1, 2)
        for x in (k, v)
    )
    logits = draw(3, 2, 2, 40, attention.rank)
    actual = attention.mix(q, torch.cat([k, logits], dim=-1), v)
    torch.testing.assert_close(actual, relative.mix(q, *normed))


def test_causal_chunks_of_one_position_are_softmax_over_all_before() -> None:
    # A chunk's summary is then its key and value, normed like the window's.
    attention = longshort(Pattern.CAUSAL_SELF, window=1, chunk_size=1, chunk_rank=1)
    without_distances(attention)
    reference = longshort(Pattern.CAUSAL_SELF, window=40, chunk_size=41, chunk_rank=1)
    reference.load_state_dict(attention.state_dict())
    attention.long_norm.load_state_dict(attention.short_norm.state_dict())
    query, _ = inputs(Pattern.CAUSAL_SELF, 40)
    torch.testing.assert_close(attention(query), reference(query))


def test_a_query_sees_the_chunks_before_its_own_and_its_window() -> None:
    attention = longshort(Pattern.CAUSAL_SELF, window=3, chunk_size=4)
    query, _ = inputs(Pattern.CAUSAL_SELF, 16, batch_size=1)
    others = query.repeat(16, 1, 1)
    others[range(16), range(16)] = 5.0
    moved = (attention(others) - attention(query)).abs().amax(dim=-1) > 1e-6  # [j, i]: j moves i
    i, j = torch.arange(16), torch.arange(16)[:, None]
    assert torch.equal(moved, ((j <= i) & (i - j < 3)) | (j // 4 < i // 4))


def test_noncausal_everything_is_in_the_summary() -> None:
    attention = longshort(Pattern.NONCAUSAL_SELF, window=4, num_landmarks=1)
    query, _ = inputs(Pattern.NONCAUSAL_SELF, 30)
    other = query.clone()
    other[:, 11] = 5.0
    moved = (attention(other) - attention(query)).abs().amax(dim=-1) > 1e-6
    assert moved.all()


def test_memory_holds_the_window_and_the_summaries() -> None:
    attention = longshort(Pattern.CAUSAL_SELF, window=6, chunk_size=4, chunk_rank=2)
    # Heads, of keys with two logits and of values; bytes of float64; batch of 3.
    ring, summaries = 3 * 8 * 2 * (8 + 2 + 8) * 6, 3 * 8 * 2 * (8 + 8)
    _, state = attention.prefill(draw(0, 3, 34, 16), attention.init_state(3))
    assert state.num_bytes == ring + summaries * 2 * 8
    for _ in range(2):
        _, state = attention.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == ring + summaries * 2 * 16  # the ninth chunk: the room doubled


@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS])
def test_cross_is_refused_with_the_reason(pattern: Pattern) -> None:
    with pytest.raises(UnsupportedPattern, match="a place in the query's own sequence"):
        build("longshort", pattern)


@pytest.mark.parametrize("setting", ["window", "num_landmarks", "chunk_size", "chunk_rank"])
def test_bad_settings_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be positive, got 0"):
        longshort(Pattern.CAUSAL_SELF, **{setting: 0})
