"""BaseConv with a short filter, its lengths, its state and its bad settings."""

from typing import Any

import pytest
import torch

from attentions.base import Pattern
from attentions.convolution.base_conv import BaseConvAttention
from tests.attentions.claims import build, draw, holes
from tests.attentions.test_decoding import steps
from tests.oracles.base_conv import oracle


def test_the_filter_starts_from_small_weights_without_biases() -> None:
    attention = BaseConvAttention(1000, 2, Pattern.NONCAUSAL_SELF, max_len=50, filter_bands=50)
    parameters = dict(attention.long.named_parameters()) if attention.long else {}
    assert set(parameters) == {
        f"{a}.{b}" for a in ("hidden", "filters") for b in ("weight", "bias")
    }
    for name, parameter in parameters.items():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            # The deviation of 1,616 weights or more is known to 2 % of itself; within five of that.
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_SELF])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_short_filter_is_the_direct_sum(pattern: Pattern, kernel_size: int, length: int) -> None:
    attention = build("base_conv", pattern, kernel_size=kernel_size, max_len=None)
    u, mask = draw(0, 3, length, 16), holes(1, 3, length)
    actual = attention(u, key_padding_mask=mask)
    torch.testing.assert_close(actual, oracle(attention, u, u, mask, mask))


def test_steps_of_a_short_filter_keep_its_last_inputs() -> None:
    attention = build("base_conv", Pattern.CAUSAL_SELF, kernel_size=3, max_len=None)
    u = draw(0, 5, 9, 16)
    answered, state = attention.prefill(u[:, :4], attention.init_state(5))
    more, state = steps(attention, u[:, 4:], state)
    torch.testing.assert_close(torch.cat([answered, more], dim=1), attention(u))
    assert state.num_bytes == 5 * 2 * 16 * 8  # batch, inputs, E, bytes


def test_a_short_filter_sees_no_further() -> None:
    attention = build("base_conv", Pattern.NONCAUSAL_SELF, kernel_size=3)
    u = draw(0, 1, 12, 16)
    other = u.clone()
    other[:, 5] += 1.0
    moved = (attention(u) - attention(other)).abs().amax(dim=-1)[0] > 1e-9
    # 3 behind counting itself, and 3 ahead.
    assert moved.nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7]


def test_state_of_a_long_filter_is_each_input_and_the_filter() -> None:
    attention = build("base_conv", Pattern.CAUSAL_SELF)
    _, state = attention.prefill(draw(0, 5, 40, 16), attention.init_state(5))
    assert state.num_bytes == 5 * 2 * 40 * 16 * 8  # batch, inputs and filter, tokens, E, bytes


def test_the_state_does_not_share_memory_with_the_prompt() -> None:
    attention = build("base_conv", Pattern.CAUSAL_SELF)
    u = draw(0, 2, 9, 16)
    prompt = u[:, :8].clone()
    _, state = attention.prefill(prompt, attention.init_state(2))
    prompt.zero_()
    answered, _ = attention.step(u[:, 8:], state)
    torch.testing.assert_close(answered, attention(u)[:, 8:])


def test_sequences_longer_than_the_filter_are_refused() -> None:
    attention = build("base_conv", Pattern.CAUSAL_SELF, max_len=9)
    u = draw(0, 2, 10, 16)
    _, state = attention.prefill(u[:, :9], attention.init_state(2))
    message = "BaseConvAttention: a sequence of length 10 is longer than max_len = 9"
    with pytest.raises(ValueError, match=message):
        attention(u)
    with pytest.raises(ValueError, match=message):
        attention.step(u[:, 9:], state)
    short = build("base_conv", Pattern.CAUSAL_SELF, max_len=9, kernel_size=3)
    assert short(u).shape == u.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 0}, "kernel_size must be positive or null, got 0"),
        ({"filter_width": 0}, "must be positive, got 0 and 1"),
        ({"filter_bands": 0}, "must be positive, got 16 and 0"),
        ({"max_len": None}, "a long filter needs max_len, its scale, got None"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BaseConvAttention(16, 2, Pattern.CAUSAL_SELF, **{"max_len": 9, **settings})
