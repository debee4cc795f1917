"""DeltaNet's directions, what its state holds, and its bad settings."""

import pytest
import torch

from attentions.base import Pattern
from attentions.recurrent.deltanet import DeltaNetAttention
from tests.attentions.claims import build, draw


def test_noncausal_treats_both_directions_alike() -> None:
    attention = build("deltanet", Pattern.NONCAUSAL_SELF)
    query = draw(0, 2, 70, 16)
    torch.testing.assert_close(attention(query.flip(1)).flip(1), attention(query))


def test_the_last_causal_query_answers_as_in_the_cross_pattern() -> None:
    # It reads the state of the whole sequence.
    causal, cross = (build("deltanet", p) for p in (Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS))
    cross.load_state_dict(causal.state_dict())
    query = draw(0, 2, 70, 16)
    torch.testing.assert_close(cross(query, query)[:, -1], causal(query)[:, -1])


def test_without_convolution_a_query_of_the_cross_patterns_knows_no_other() -> None:
    attention = build("deltanet", Pattern.NONCAUSAL_CROSS, conv_size=1)
    query, context = draw(0, 2, 9, 16), draw(1, 2, 30, 16)
    torch.testing.assert_close(attention(query[:, 4:5], context), attention(query, context)[:, 4:5])


@pytest.mark.parametrize(
    ("pattern", "convolved"), [(Pattern.CAUSAL_SELF, 3), (Pattern.CAUSAL_CROSS, 1)]
)
def test_state_is_a_matrix_per_head_and_three_rows_per_convolution(
    pattern: Pattern, convolved: int
) -> None:
    attention = build("deltanet", pattern)
    state = attention.init_state(5, draw(0, 5, 50, 16) if pattern.is_cross else None)
    _, state = attention.step(draw(1, 5, 1, 16), state)
    assert state.num_bytes == 5 * (2 * 8 * 8 + convolved * 3 * 16) * 8  # heads, D, D; rows, E


def test_conv_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="conv_size must be positive, got 0"):
        DeltaNetAttention(16, 2, Pattern.CAUSAL_SELF, conv_size=0)
