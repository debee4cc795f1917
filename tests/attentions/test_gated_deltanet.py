"""Gated DeltaNet without its decay, and what its state holds."""

import pytest
import torch

from attentions.base import Pattern
from attentions.recurrent.gated_deltanet import GatedDeltaNetAttention
from tests.attentions.claims import build, draw


@pytest.mark.parametrize("pattern", list(Pattern))
def test_without_decay_and_gate_it_is_deltanet(pattern: Pattern) -> None:
    gated = build("gated_deltanet", pattern, value_expansion=1)
    plain = build("deltanet", pattern)
    missing = gated.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert set(missing) == {
        "gate_proj.weight",
        "gate_proj.bias",
        "decay_proj.weight",
        "decay_shift",
        "log_rate",
    }
    with torch.no_grad():
        gated.get_parameter("log_rate").fill_(-torch.inf)
        gated.get_parameter("gate_proj.weight").zero_()
        gated.get_parameter("gate_proj.bias").fill_(50.0)
        gated.get_parameter("out_proj.weight").div_(50.0)  # swish(50) is 50
    query, context = draw(0, 2, 70, 16), draw(1, 2, 30, 16) if pattern.is_cross else None
    torch.testing.assert_close(gated(query, context), plain(query, context))


def test_heads_start_with_rates_up_to_16_and_steps_from_a_thousandth_to_a_tenth() -> None:
    attention = GatedDeltaNetAttention(1024, 1024, Pattern.CAUSAL_SELF)
    rate, step = attention.log_rate.exp(), torch.nn.functional.softplus(attention.decay_shift)
    # The greatest and the smallest of 1024 draws come this near to the ends.
    assert 15.8 < rate.max() <= 16.0
    assert rate.min() < 0.2
    assert 0.001 * (1 - 1e-4) < step.min() < 0.00105
    assert 0.095 < step.max() < 0.1 * (1 + 1e-4)


def test_noncausal_treats_both_directions_alike() -> None:
    attention = build("gated_deltanet", Pattern.NONCAUSAL_SELF)
    query = draw(0, 2, 70, 16)
    torch.testing.assert_close(attention(query.flip(1)).flip(1), attention(query))


@pytest.mark.parametrize(
    ("pattern", "rows"), [(Pattern.CAUSAL_SELF, 16 + 16 + 32), (Pattern.CAUSAL_CROSS, 16)]
)
def test_state_is_a_matrix_per_head_and_three_rows_per_convolution(
    pattern: Pattern, rows: int
) -> None:
    attention = build("gated_deltanet", pattern)
    state = attention.init_state(5, draw(0, 5, 50, 16) if pattern.is_cross else None)
    _, state = attention.step(draw(1, 5, 1, 16), state)
    assert state.num_bytes == 5 * (2 * 8 * (2 * 8) + 3 * rows) * 8  # heads, D, 2 D; rows, width


@pytest.mark.parametrize("name", ["value_expansion", "conv_size"])
def test_sizes_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        GatedDeltaNetAttention(16, 2, Pattern.CAUSAL_SELF, **{name: 0})
