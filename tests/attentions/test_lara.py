"""LARA where it estimates softmax attention, and what its proposals are."""

import pytest
import torch
import torch.nn.functional as F

from attentions.base import Pattern
from attentions.lowrank.lara import LaraAttention
from tests.attentions.claims import build, draw, inputs

PATTERNS = [Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS]


def lara(pattern: Pattern, **settings: int) -> LaraAttention:
    attention = build("lara", pattern, **settings)
    assert isinstance(attention, LaraAttention)
    return attention


@pytest.mark.parametrize("pattern", PATTERNS)
def test_many_samples_in_one_dimension_give_softmax_attention(pattern: Pattern) -> None:
    # There the scale D^(-1/2) is that of the softmax kernel, and the importance weights are exact:
    # the only setting in which they can be told from wrong ones.
    torch.manual_seed(0)
    length = 2000
    attention = LaraAttention(2, 2, pattern, num_landmarks=length).train()
    q, k = 0.7 * draw(0, 1, 2, length, 1), 0.7 * draw(1, 1, 2, length, 1)
    softmax = F.scaled_dot_product_attention(q, k, k)
    assert softmax.std() > 0.3
    # The variance is one part in sqrt(2000) times a few, and grows with the query.
    error = (attention.mix(q, k, k) - softmax).abs()
    assert error[q.abs() < 1.0].amax() < 0.1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_weights_sum_to_one(pattern: Pattern) -> None:
    q, k = draw(0, 2, 2, 60, 8), draw(1, 2, 2, 60, 8)
    ones = torch.ones_like(k)
    attention = lara(pattern)
    for training in (False, True):
        torch.testing.assert_close(attention.train(training).mix(q, k, ones), ones)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_more_proposals_than_positions(pattern: Pattern) -> None:
    q, k, v = (draw(seed, 2, 2, 5, 8) for seed in range(3))
    few, many = lara(pattern, num_landmarks=5), lara(pattern, num_landmarks=50)
    torch.testing.assert_close(many.mix(q, k, v), few.mix(q, k, v))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_samples_in_training_alone(pattern: Pattern) -> None:
    attention = lara(pattern)
    query, context = inputs(pattern, 12)
    assert torch.equal(attention(query, context), attention(query, context))
    attention.train()
    torch.manual_seed(1)
    first, second = attention(query, context), attention(query, context)
    torch.manual_seed(1)
    assert torch.equal(attention(query, context), first)
    assert not torch.allclose(second, first)


@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS])
def test_queries_of_the_cross_patterns_never_meet(pattern: Pattern) -> None:
    attention = lara(pattern)
    query, context = inputs(pattern, 12)
    alone = [attention(query[:, i, None], context) for i in range(12)]
    torch.testing.assert_close(torch.cat(alone, dim=1), attention(query, context))


def test_state_is_the_proposals() -> None:
    attention = lara(Pattern.CAUSAL_CROSS, num_landmarks=5)
    state = attention.init_state(3, draw(0, 3, 50, 16))
    _, state = attention.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == 3 * 2 * 5 * (8 + 1 + 8) * 8  # batch, heads, C (D + 1 + D), bytes


def test_num_landmarks_must_be_positive() -> None:
    with pytest.raises(ValueError, match="num_landmarks must be positive, got 0"):
        lara(Pattern.NONCAUSAL_SELF, num_landmarks=0)
