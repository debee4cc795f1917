"""Gated linear attention where its gates are open, and what its state holds."""

import pytest
import torch
import torch.nn.functional as F

from attentions.base import Pattern
from attentions.recurrent.gla import GatedLinearAttention
from tests.attentions.claims import build, draw, inputs

OPEN = 60.0
"""A logit: sigmoid(60) is 1 in float64."""


def gla(pattern: Pattern, **settings: float) -> GatedLinearAttention:
    attention = build("gla", pattern, **settings)
    assert isinstance(attention, GatedLinearAttention)
    return attention


@pytest.mark.parametrize("pattern", list(Pattern))
def test_with_open_gates_it_is_linear_attention(pattern: Pattern) -> None:
    attention = gla(pattern)
    q, k, v, gate = (draw(seed, 2, 2, 150, width) for seed, width in enumerate((4, 4, 8, 8)))
    scores = q @ k.mT / 4**0.5
    if pattern is Pattern.CAUSAL_SELF:
        scores = scores.tril()
    expected = F.rms_norm(scores @ v, (8,), eps=1e-5) * F.silu(gate)
    opened = torch.cat([k, torch.full_like(k, OPEN)], dim=-1)
    torch.testing.assert_close(attention.mix(torch.cat([q, gate], dim=-1), opened, v), expected)


def test_each_feature_forgets_by_its_own_gate() -> None:
    # Features 0 and 1 hold what position 0 wrote into dimensions 0 and 1; both are read at 1.
    attention = gla(Pattern.CAUSAL_SELF, gate_temperature=2.0)
    k = torch.zeros(1, 2, 2, 4, dtype=torch.float64)
    k[:, :, 0, :2] = 1.0
    logits = torch.tensor([[0.0, 0.0], [0.3, -1.5]], dtype=torch.float64)
    k = torch.cat([k, F.pad(logits, (0, 2)).expand(1, 2, 2, 4)], dim=-1)
    state = attention.absorb({}, k, torch.ones(1, 2, 2, 8, dtype=torch.float64))["state"]
    torch.testing.assert_close(state[0, 0, :2, 0], logits[1].sigmoid().sqrt())


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_SELF])
def test_a_padded_position_is_as_if_it_were_not_there(pattern: Pattern) -> None:
    attention = gla(pattern)
    query, _ = inputs(pattern, 80)
    padded = torch.arange(80) % 5 == 2
    output = attention(query, key_padding_mask=padded.expand(2, -1))[:, ~padded]
    torch.testing.assert_close(output, attention(query[:, ~padded]))


def test_noncausal_treats_both_directions_alike() -> None:
    attention = gla(Pattern.NONCAUSAL_SELF)
    query = draw(0, 2, 70, 16)
    torch.testing.assert_close(attention(query.flip(1)).flip(1), attention(query))


def test_the_last_causal_query_answers_as_in_the_cross_pattern() -> None:
    causal, cross = gla(Pattern.CAUSAL_SELF), gla(Pattern.CAUSAL_CROSS)
    cross.load_state_dict(causal.state_dict())
    query = draw(0, 2, 70, 16)
    torch.testing.assert_close(cross(query[:, -1:], query), causal(query)[:, -1:])


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_state_is_one_matrix_per_head(pattern: Pattern) -> None:
    attention = gla(pattern)
    state = attention.init_state(3, draw(0, 3, 50, 16) if pattern.is_cross else None)
    _, state = attention.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == 3 * 2 * 4 * 8 * 8  # batch, heads, D / 2, D, bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key_expansion": 0.1}, "key_expansion must leave a key at least one of 8 features"),
        ({"gate_rank": 0}, "gate_rank must be positive, got 0"),
        ({"gate_temperature": 0.0}, "gate_temperature must be positive, got 0.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gla(Pattern.CAUSAL_SELF, **settings)
