"""Based as the second power of softmax attention, its features, and what its state holds."""

import pytest
import torch
import torch.nn.functional as F

from attentions.base import Pattern
from attentions.linear.based import BasedAttention
from tests.attentions.claims import build, draw


def based(pattern: Pattern, **settings: int) -> BasedAttention:
    attention = build("based", pattern, **settings)
    assert isinstance(attention, BasedAttention)
    return attention


@pytest.mark.parametrize("key_dim", [1, 2, 5, 16])
def test_products_of_features_are_the_kernel(key_dim: int) -> None:
    attention = based(Pattern.CAUSAL_SELF, key_dim=key_dim)
    x, y = 3.0 * draw(0, 10, key_dim), 3.0 * draw(1, 20, key_dim)
    phi_x, phi_y = attention._features(x), attention._features(y)
    assert phi_x.shape[-1] == (key_dim + 1) * (key_dim + 2) // 2
    s = x @ y.mT / key_dim**0.5
    torch.testing.assert_close(phi_x @ phi_y.mT, 1 + s + s**2 / 2)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_its_distance_to_softmax_attention_is_of_third_order(pattern: Pattern) -> None:
    attention = based(pattern, key_dim=8)
    q, k, v = (draw(seed, 2, 2, 150, 8) for seed in range(3))
    is_causal = pattern is Pattern.CAUSAL_SELF

    def error(scale: float) -> float:
        softmax = F.scaled_dot_product_attention(scale * q, k, v, is_causal=is_causal)
        return (attention.mix(scale * q, k, v) - softmax).abs().amax().item()

    # Half the scores leave an eighth, but for the fourth order; a wrong square, a quarter.
    assert error(0.01) / error(0.005) == pytest.approx(8.0, rel=0.05)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_weights_sum_to_one_where_they_are_least(pattern: Pattern) -> None:
    # s = -1 is the minimum of 1 + s + s^2 / 2.
    q = torch.ones(2, 2, 150, 4, dtype=torch.float64)
    v = torch.ones(2, 2, 150, 8, dtype=torch.float64)
    torch.testing.assert_close(based(pattern, key_dim=4).mix(q, -q / 2, v), v)


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_state_is_a_sum_for_each_feature(pattern: Pattern) -> None:
    attention = based(pattern, key_dim=16)
    state = attention.init_state(3, draw(0, 3, 50, 16) if pattern.is_cross else None)
    _, state = attention.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == 3 * 2 * 153 * (8 + 1) * 8  # batch, heads, features, D + 1, bytes


def test_key_dim_must_be_positive() -> None:
    with pytest.raises(ValueError, match="key_dim must be positive, got 0"):
        based(Pattern.CAUSAL_SELF, key_dim=0)
