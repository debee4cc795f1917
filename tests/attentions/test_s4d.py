"""S4D's initial modes and steps, one mode by hand, what its state holds, and bad settings."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Pattern
from attentions.recurrent.s4d import S4dAttention
from tests.attentions.claims import build, draw


def s4d(pattern: Pattern, **settings: Any) -> S4dAttention:
    attention = build("s4d", pattern, **{"channels": 1, **settings})
    assert isinstance(attention, S4dAttention)
    return attention


@torch.no_grad()
def one_real_mode(log_decay: float, step: float) -> S4dAttention:
    """C = 1/2, A = -exp(log_decay), no skip: x_t = exp(step A) x_{t-1} + B u_t is the output."""
    attention = s4d(Pattern.CAUSAL_SELF, state_size=2)
    attention.log_step.fill_(math.log(step))
    attention.log_decay.fill_(log_decay)
    attention.c.copy_(torch.tensor([0.5, 0.0]))
    attention.skip.zero_()
    return attention


def finished(attention: S4dAttention, y: Tensor) -> Tensor:
    return F.glu(attention.out_proj(F.gelu(y)), dim=-1)


def test_a_real_mode_answers_an_impulse_by_a_decay() -> None:
    attention = one_real_mode(math.log(0.5), 0.1)
    impulse = torch.zeros(1, 300, 16, dtype=torch.float64)
    impulse[:, 0] = 1.0
    t = torch.arange(300, dtype=torch.float64)
    y = (1 - math.exp(-0.05)) / 0.5 * (-0.05 * t).exp()  # B exp(step A t)
    expected = finished(attention, y[:, None].expand(1, 300, 16))
    torch.testing.assert_close(attention(impulse), expected)


def test_a_mode_that_forgets_nothing_gives_running_sums() -> None:
    attention = one_real_mode(-30.0, 1.0)  # A is 1e-13, and B is the step
    u = draw(0, 2, 100, 16)
    torch.testing.assert_close(attention(u), finished(attention, u.cumsum(dim=1)))


@pytest.mark.parametrize(
    ("init", "frequencies"),
    [
        ("lin", [0.0, math.pi, 2 * math.pi, 3 * math.pi]),
        ("inv", [8 / math.pi * (8 / odd - 1) for odd in (1, 3, 5, 7)]),
    ],
)
def test_modes_start_as_in_the_paper(init: str, frequencies: list[float]) -> None:
    attention = S4dAttention(1000, 1, Pattern.CAUSAL_SELF, state_size=8, init=init)
    torch.testing.assert_close(attention.log_decay.exp(), torch.full((1000, 4), 0.5))
    expected = torch.tensor(frequencies).expand(1000, 4)
    torch.testing.assert_close(attention.frequency.detach(), expected)
    step = attention.log_step.exp()
    # The greatest and the smallest of 1000 draws come this near to the ends.
    assert 0.001 * (1 - 1e-4) < step.min() < 0.00105
    assert 0.095 < step.max() < 0.1 * (1 + 1e-4)
    # A complex normal number has a mean square of 1; 4000 of them give it within 5 deviations.
    assert attention.c.square().sum(dim=-1).mean().item() == pytest.approx(1, abs=5 / 4000**0.5)


def test_without_the_second_c_noncausal_is_causal() -> None:
    noncausal, causal = s4d(Pattern.NONCAUSAL_SELF), s4d(Pattern.CAUSAL_SELF)
    state = noncausal.state_dict()
    causal.load_state_dict(state | {"c": state["c"][:1]})
    u = draw(0, 2, 70, 16)
    assert not torch.allclose(noncausal(u), causal(u))
    with torch.no_grad():
        noncausal.c[1] = 0.0
    torch.testing.assert_close(noncausal(u), causal(u))


def test_state_is_half_a_complex_number_per_mode() -> None:
    attention = s4d(Pattern.CAUSAL_SELF, state_size=10, channels=3)
    _, state = attention.step(draw(0, 5, 1, 16), attention.init_state(5))
    assert state.num_bytes == 5 * 16 * 10 * 8  # batch, E, N, bytes: whatever the channels


def test_long_sequences_keep_their_phase_in_float32() -> None:
    attention = s4d(Pattern.CAUSAL_SELF)
    u = draw(0, 1, 3000, 16)
    expected = attention(u)
    # Of numbers of order one; the modes whose angles round most have faded before.
    torch.testing.assert_close(attention.float()(u.float()).double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"state_size": 0}, "state_size must be positive and even, got 0"),
        ({"state_size": 7}, "state_size must be positive and even, got 7"),
        ({"init": "legs"}, "init must be 'lin' or 'inv', got 'legs'"),
        ({"channels": 0}, "channels must be positive, got 0"),
        ({"min_step": 0.0}, r"0 < min_step <= max_step, got 0\.0 and 0\.1"),
        ({"max_step": 1e-4}, r"0 < min_step <= max_step, got 0\.001 and 0\.0001"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        S4dAttention(16, 2, Pattern.CAUSAL_SELF, **settings)
