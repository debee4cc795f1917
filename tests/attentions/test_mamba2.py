"""Mamba-2 in its quadratic form, at the limits of its decay, and what its state holds."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.recurrent.mamba2 import Mamba2Attention
from tests.attentions.claims import build, draw


def mamba2(pattern: Pattern, **settings: float) -> Mamba2Attention:
    attention = build("mamba2", pattern, **settings)
    assert isinstance(attention, Mamba2Attention)
    return attention


def quadratic(attention: Mamba2Attention, query: Tensor) -> Tensor:
    """The state space dual: (L * C B^T) (dt x) + D x with L_ij = a_i ... a_{j+1}, all n x n."""
    length = query.shape[1]
    inner, width, num_heads = attention.widths
    z, xbc, dt = attention.in_proj(query).split([inner, width, num_heads], dim=-1)
    conv = {"weight": attention.conv[:, None], "bias": attention.conv_bias, "groups": width}
    xbc = F.silu(F.conv1d(xbc.mT, padding=attention.conv_size - 1, **conv)[..., :length]).mT
    x, b, c = xbc.split([inner, attention.state_dim, attention.state_dim], dim=-1)
    x = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    dt = F.softplus(dt + attention.dt_bias).mT
    log_a = -attention.log_a.exp()[:, None] * dt
    decay = torch.zeros(*dt.shape, length, dtype=query.dtype)
    for i in range(length):
        for j in range(i + 1):
            decay[..., i, j] = log_a[..., j + 1 : i + 1].sum(dim=-1).exp()
    y = (decay * (c @ b.mT)[:, None]) @ (dt[..., None] * x) + attention.skip[:, None, None] * x
    gated = y.transpose(1, 2).flatten(-2) * F.silu(z)
    return attention.out_proj(F.rms_norm(gated, (inner,), attention.norm, attention.eps))


def test_it_is_its_quadratic_form() -> None:
    attention = mamba2(Pattern.CAUSAL_SELF)
    nn.init.normal_(attention.skip)
    query = draw(0, 2, 70, 16)
    torch.testing.assert_close(attention(query), quadratic(attention, query))


def test_without_decay_it_adds_up_all_that_was_written() -> None:
    # Which is the same at every position of a constant input.
    attention = mamba2(Pattern.CAUSAL_SELF, conv_size=1)
    nn.init.constant_(attention.log_a, -60.0)  # a = exp(-exp(-60) dt) is 1 in float64
    nn.init.zeros_(attention.skip)
    _, xbc, dt = attention._project(draw(0, 1, 1, 16).expand(1, 90, 16))
    y = attention._scan(xbc, dt)
    count = torch.arange(1, 91, dtype=torch.float64)
    torch.testing.assert_close(y, count[:, None] * y[:, :, :1])


def test_shut_off_it_is_its_skip() -> None:
    # Where the decay is total only the own position is left, and where dt is 0 not even that.
    attention = mamba2(Pattern.CAUSAL_SELF)
    _, xbc, dt = attention._project(draw(0, 2, 70, 16))
    x, b, c, values, _ = attention._select(xbc, dt)
    skipped = attention.skip[:, None, None] * x
    torch.testing.assert_close(attention._scan(xbc, 0.0 * dt), skipped)
    nn.init.constant_(attention.log_a, 60.0)
    own = (b * c).sum(dim=-1, keepdim=True) * values
    torch.testing.assert_close(attention._scan(xbc, dt), own + skipped)


def test_weak_decays_after_total_ones_keep_float32() -> None:
    attention = mamba2(Pattern.CAUSAL_SELF)
    _, xbc, dt = attention._project(draw(0, 2, 150, 16))
    dt = torch.where(torch.arange(150)[:, None] % 37 < 9, 1e4, 0.01 * dt)
    expected = attention._scan(xbc, dt)[:, :, 9:37]  # where dt is small, x is not drowned
    actual = attention.float()._scan(xbc.float(), dt.float())[:, :, 9:37]
    # Exponents are differences of sums up to 1800, rounded to 1e-4. Unbounded, it would be 10.
    error = (actual - expected).abs().amax() / expected.abs().amax()
    assert error.item() < 1e-3


def test_total_decay_gives_finite_gradients_in_float32() -> None:
    attention = mamba2(Pattern.CAUSAL_SELF).float()
    nn.init.constant_(attention.log_a, 60.0)
    attention(draw(0, 2, 150, 16).float()).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_noncausal_treats_both_directions_alike() -> None:
    attention = mamba2(Pattern.NONCAUSAL_SELF)
    query = draw(0, 2, 70, 16)
    torch.testing.assert_close(attention(query.flip(1)).flip(1), attention(query))


def test_it_starts_with_the_authors_steps_and_decays() -> None:
    attention = Mamba2Attention(64, 64, Pattern.CAUSAL_SELF)
    dt, a = F.softplus(attention.dt_bias), attention.log_a.exp()
    assert dt.min() > 0.00099
    assert dt.max() < 0.101
    assert dt.median() < 0.03  # evenly in its logarithm: half are below 0.01
    assert a.min() >= 1.0
    assert a.max() <= 16.0
    assert a.median() > 5.0


def test_state_is_one_matrix_per_head_and_the_convolutions_past() -> None:
    attention = mamba2(Pattern.CAUSAL_SELF, state_dim=5)
    _, state = attention.step(draw(1, 3, 1, 16), attention.init_state(3))
    # Batch; heads, N, P; three positions of x, B and C; bytes.
    assert state.num_bytes == 3 * (2 * 5 * 16 + 3 * (32 + 2 * 5)) * 8


@pytest.mark.parametrize("setting", ["state_dim", "expansion", "conv_size"])
def test_sizes_must_be_positive(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be positive, got 0"):
        mamba2(Pattern.CAUSAL_SELF, **{setting: 0})
