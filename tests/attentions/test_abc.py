"""ABC where it is exact, and what its slots hold."""

import pytest
import torch

from attentions.base import Pattern
from attentions.lowrank.abc import AbcAttention
from tests.attentions.claims import build, draw


def test_causal_is_noncausal_on_every_prefix() -> None:
    # CAB's causal code reads the own token alone, scaled by a factor that shrinks like 1/t.
    causal = build("abc", Pattern.CAUSAL_SELF)
    noncausal = build("abc", Pattern.NONCAUSAL_SELF)
    noncausal.load_state_dict(causal.state_dict())
    query = draw(0, 2, 30, 16)
    output = causal(query)
    for end in range(1, 31):
        torch.testing.assert_close(output[:, end - 1], noncausal(query[:, :end])[:, -1])


@pytest.mark.parametrize("pattern", list(Pattern))
def test_with_a_slot_for_each_position_it_is_softmax_attention(pattern: Pattern) -> None:
    # One-hot keys and values, and large control weights: slot r holds position r and no other.
    length = 8
    attention = build("abc", pattern, num_slots=length)
    assert isinstance(attention, AbcAttention)
    with torch.no_grad():
        attention.key_control.copy_(1e4 * torch.eye(length))
        attention.value_control.copy_(1e4 * torch.eye(length))
    q = draw(1, 2, 2, length, length)
    one_hot = torch.eye(length, dtype=torch.float64).expand(2, 2, -1, -1)
    actual = attention.mix(q, one_hot, one_hot)
    last = torch.nn.functional.scaled_dot_product_attention(q, one_hot, one_hot)
    # In causal self an unfilled slot holds the mean of what came: only the end has all of them.
    rows = slice(-1, None) if pattern is Pattern.CAUSAL_SELF else slice(None)
    torch.testing.assert_close(actual[:, :, rows], last[:, :, rows])


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_state_is_two_sets_of_slots(pattern: Pattern) -> None:
    attention = build("abc", pattern, num_slots=5)
    state = attention.init_state(3, draw(0, 3, 50, 16) if pattern.is_cross else None)
    _, state = attention.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == 3 * 2 * 2 * 5 * (8 + 1) * 8  # batch, heads, k and v, r (D + 1), bytes


def test_num_slots_must_be_positive() -> None:
    with pytest.raises(ValueError, match="num_slots must be positive, got 0"):
        build("abc", Pattern.CAUSAL_SELF, num_slots=0)
