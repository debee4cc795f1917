"""Hyena's filters, its lengths, its state and its bad settings."""

from typing import Any

import numpy
import pytest
import torch

from attentions.base import Pattern
from attentions.convolution.hyena import HyenaAttention, SineConvolution
from attentions.convolution.long_convolution import LongConvolution
from tests.attentions.claims import build, draw


def test_of_order_two_it_is_a_toeplitz_matrix_between_two_diagonal_ones() -> None:
    attention = build("hyena", Pattern.CAUSAL_SELF, order=2, conv_size=1)
    assert isinstance(attention, HyenaAttention)
    u = draw(0, 2, 40, 16)
    q, k, v = (attention.in_proj(u) * attention.conv[:, 0] + attention.conv_bias).chunk(3, dim=-1)
    (long,) = attention.long
    assert isinstance(long, LongConvolution)
    h = long.filter(torch.arange(40), torch.float64)[0]  # (E, 40)
    gap = torch.arange(40)[:, None] - torch.arange(40)
    toeplitz = torch.where(gap >= 0, h[:, gap.clamp(min=0)], 0.0)  # (E, 40, 40)
    y = q * (toeplitz @ (k * v).mT[..., None])[..., 0].mT
    torch.testing.assert_close(attention(u), attention.out_proj(y))


def test_filters_start_with_bounds_that_fade_to_a_hundredth() -> None:
    # The network before the window is bounded by the sum of its last weights.
    long = SineConvolution(8, 101, both_ways=True, width=16, bands=4, frequency=14.0).double()
    with torch.no_grad():
        long.skip.zero_()
        filters = long.filter(torch.arange(101), torch.float64)
        bound = long.filters.weight.abs().sum(dim=-1).view(2, 8)
    assert filters.shape == (2, 8, 101)
    assert (filters.abs() <= bound[..., None]).all()
    # t is 0.3 at the 31st distance: the fastest channel is there at a hundredth, the slowest not.
    assert (filters[:, -1, 30:].abs() <= 0.01 * bound[:, -1, None] + 1e-12).all()
    assert (filters[:, 0].abs() > 0.01 * bound[:, 0, None]).any()


def test_filters_start_as_smooth_as_with_the_weights_of_the_authors() -> None:
    generator = numpy.random.default_rng(0)
    ours, theirs = [], []
    for seed in range(8):
        torch.manual_seed(seed)
        attention = HyenaAttention(
            48, 1, Pattern.CAUSAL_SELF, max_len=1024, filter_width=64, filter_frequency=14.0
        )
        (long,) = attention.long
        assert isinstance(long, SineConvolution)
        with torch.no_grad():
            long.skip.zero_()
            ours.append(step_of(long.filter(torch.arange(1024), torch.float64)[0].T.numpy()))
        theirs.append(step_of(drawn_filter(generator)))
    # Each varies by a twentieth from draw to draw. Of white noise a step is 1.41 of its size.
    assert numpy.mean(theirs) == pytest.approx(0.16, abs=0.01)
    assert numpy.mean(ours) == pytest.approx(numpy.mean(theirs), abs=4 * 0.01 * (2 / 8) ** 0.5)


def step_of(h: "numpy.ndarray[Any, Any]") -> float:
    """The root mean square of a change from one distance to the next, over that of h itself."""
    return float(((h[1:] - h[:-1]) ** 2).mean() ** 0.5 / (h**2).mean() ** 0.5)


def drawn_filter(generator: numpy.random.Generator) -> "numpy.ndarray[Any, Any]":
    """48 filters of 1024 distances of safari's network: its maps from N(0, 0.02), its sines at 14.

    33 features and widths of 64, as in its configuration for the Pile.
    """
    i = numpy.arange(1024)[:, None]
    angle = 2 * numpy.pi * i / 1024 * numpy.linspace(1e-4, 15, 16)
    h = numpy.concatenate([i / 1023, numpy.cos(angle), -numpy.sin(angle)], axis=1)
    for _ in range(3):
        h = numpy.sin(14 * h @ generator.normal(0.0, 0.02, (h.shape[1], 64)))
    h = h @ generator.normal(0.0, 0.02, (64, 48))
    return h * 0.01 ** (i / 1023 * numpy.linspace(1 / 1.5, 1 / 0.3, 48))


def test_without_its_second_filters_noncausal_is_causal() -> None:
    settings = {"order": 2}
    noncausal = build("hyena", Pattern.NONCAUSAL_SELF, **settings)
    causal = build("hyena", Pattern.CAUSAL_SELF, **settings)
    state = noncausal.state_dict()
    causal.load_state_dict(state | {"long.0.filters.weight": state["long.0.filters.weight"][:16]})
    u = draw(0, 2, 40, 16)
    assert not torch.allclose(noncausal(u), causal(u))
    with torch.no_grad():
        noncausal.get_parameter("long.0.filters.weight")[16:] = 0.0
    torch.testing.assert_close(noncausal(u), causal(u))


def test_the_filter_is_scaled_to_the_longest_sequence() -> None:
    short, long = (build("hyena", Pattern.CAUSAL_SELF, max_len=n) for n in (41, 401))
    long.load_state_dict(short.state_dict())
    u = draw(0, 1, 41, 16)
    assert not torch.allclose(short(u), long(u), rtol=0.1)


def test_longer_sequences_are_refused() -> None:
    attention = build("hyena", Pattern.CAUSAL_SELF, max_len=9)
    u = draw(0, 2, 10, 16)
    attention(u[:, :9])
    message = "HyenaAttention: a sequence of length 10 is longer than max_len = 9"
    with pytest.raises(ValueError, match=message):
        attention(u)
    _, state = attention.prefill(u[:, :8], attention.init_state(2))
    _, state = attention.step(u[:, 8:9], state)
    with pytest.raises(ValueError, match=message):
        attention.step(u[:, 9:], state)


def test_state_is_each_input_of_a_long_filter_and_the_filter() -> None:
    attention = build("hyena", Pattern.CAUSAL_SELF)  # of order 3
    _, state = attention.prefill(draw(0, 5, 40, 16), attention.init_state(5))
    # Batch; long filters, inputs and filter, tokens, E; rows of the short filter, width; bytes.
    assert state.num_bytes == 5 * (2 * 2 * 40 * 16 + 2 * 4 * 16) * 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 1}, "order must be at least 2, got 1"),
        ({"conv_size": 0}, "must be positive, got 0, 64 and 16"),
        ({"filter_width": 0}, "must be positive, got 3, 0 and 16"),
        ({"filter_bands": 0}, "must be positive, got 3, 64 and 0"),
        ({"max_len": None}, "needs max_len, the scale of its filters, got None"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HyenaAttention(16, 2, Pattern.CAUSAL_SELF, **{"max_len": 9, **settings})
