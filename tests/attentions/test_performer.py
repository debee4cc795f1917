"""Performer as an estimate of softmax attention, and its random features."""

import pytest
import torch

from attentions.base import Pattern
from attentions.linear.performer import PerformerAttention, orthogonal_features
from tests.attentions.claims import build, draw, inputs


def performer(pattern: Pattern, **settings: int) -> PerformerAttention:
    attention = build("performer", pattern, **settings)
    assert isinstance(attention, PerformerAttention)
    return attention


def test_the_mean_over_seeds_is_the_softmax_kernel() -> None:
    num_seeds, num_features, head_dim = 600, 12, 8
    x, y = 0.3 * draw(0, 10, head_dim), 0.3 * draw(1, 10, head_dim)

    def phi(x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return (x @ features.mT - x.square().sum(dim=-1, keepdim=True) / 2).exp()

    generator = torch.Generator().manual_seed(3)
    features = orthogonal_features(num_seeds, num_features, head_dim, generator=generator).double()
    estimates = (phi(x, features) @ phi(y, features).mT) / num_features  # one head per seed
    kernel = (x @ y.mT).exp()
    # Lemma 2 of the paper: the variance with independent features; orthogonal ones have less.
    square = (x[:, None] + y).square().sum(dim=-1)
    variance = square.exp() * kernel**2 * (1 - (-square).exp()) / num_features
    deviations = (estimates.mean(dim=0) - kernel) / (variance / num_seeds).sqrt()
    # 100 nearly normal numbers: beyond 5 is below one in ten thousand. A bias would be seen:
    assert deviations.abs().amax() < 5.0
    assert (variance / num_seeds).sqrt().mean() < 0.1 * kernel.mean()


def test_features_have_the_lengths_of_normal_vectors() -> None:
    head_dim = 8
    generator = torch.Generator().manual_seed(3)
    features = orthogonal_features(500, 12, head_dim, generator=generator).double()
    squares = features.square().sum(dim=-1)  # chi-square: mean D, variance 2 D
    assert abs(squares.mean() - head_dim) < 5 * (2 * head_dim / squares.numel()) ** 0.5
    # The variance of a sample variance, of kurtosis 3 + 12 / D.
    error = 2 * head_dim * ((2 + 12 / head_dim) / squares.numel()) ** 0.5
    assert abs(squares.var() - 2 * head_dim) < 5 * error
    # Lengths within a group of orthogonal directions are drawn apart.
    assert torch.corrcoef(squares.mT)[0, 1:].abs().max() < 5 / 500**0.5


def test_many_features_give_softmax_attention() -> None:
    for pattern in Pattern:
        estimate = performer(pattern, num_features=3000)
        softmax = build("softmax", pattern)
        softmax.load_state_dict(estimate.state_dict(), strict=False)
        query, context = inputs(pattern, 30, scale=0.5)
        with torch.no_grad():
            error = estimate(query, context) - softmax(query, context)
        # One part in sqrt(3000) of numbers of order one, times a few.
        assert error.abs().amax() < 0.1


@pytest.mark.parametrize("pattern", list(Pattern))
def test_weights_sum_to_one(pattern: Pattern) -> None:
    # CAB's clamp of the normaliser at 0.1 scales its outputs by about ten.
    q, k = draw(0, 2, 2, 600, 8), draw(1, 2, 2, 600, 8)
    ones = torch.ones(2, 2, 600, 8, dtype=torch.float64)
    torch.testing.assert_close(performer(pattern).mix(q, k, ones), ones)


def test_causal_is_noncausal_on_every_prefix() -> None:
    causal, noncausal = performer(Pattern.CAUSAL_SELF), performer(Pattern.NONCAUSAL_SELF)
    noncausal.load_state_dict(causal.state_dict())
    query = draw(0, 2, 70, 16)
    output = causal(query)
    for end in (1, 2, 30, 63, 64, 65, 70):
        torch.testing.assert_close(output[:, end - 1], noncausal(query[:, :end])[:, -1])


def test_a_key_of_far_larger_weight_cannot_be_seen_before_it() -> None:
    # A stabiliser that looks ahead, be it within a chunk, would let the earlier sums underflow.
    attention = performer(Pattern.CAUSAL_SELF)
    q, k, v = (draw(seed, 1, 2, 40, 8).float() for seed in range(3))
    k[:, :, :20] *= 20.0  # exp(-|k'|^2 / 2) is then far below float32 beside a key of length 1
    output = attention.mix(q, k, v)
    torch.testing.assert_close(output[:, :, :20], attention.mix(*(x[:, :, :20] for x in (q, k, v))))
    assert output.isfinite().all()


def test_features_are_orthogonal_in_groups_and_of_random_length() -> None:
    generator = torch.Generator().manual_seed(0)
    features = orthogonal_features(500, 13, 8, generator=generator)
    gram = features @ features.mT
    for group in (slice(0, 8), slice(8, 13)):
        inside = gram[:, group, group]
        off_diagonal = inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))
        torch.testing.assert_close(off_diagonal, torch.zeros_like(inside), rtol=0, atol=1e-4)
    # The length of a standard normal vector of 8: mean square 8, standard error 4 / sqrt(6500).
    assert abs(features.square().sum(dim=-1).mean().item() - 8.0) < 5 * 4 / 6500**0.5


def test_training_redraws_the_same_features_in_every_run() -> None:
    torch.manual_seed(1)
    first = performer(Pattern.NONCAUSAL_SELF, redraw_every=2).train()
    torch.manual_seed(1)
    second = performer(Pattern.NONCAUSAL_SELF, redraw_every=2).train()
    query, _ = inputs(Pattern.NONCAUSAL_SELF, 5)
    drawn = [first.features.clone()]
    for _ in range(4):
        first(query)
        drawn.append(first.features.clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert torch.equal(drawn[2], drawn[3])
    assert not torch.equal(drawn[3], drawn[4])
    second(query)
    second(query)
    assert torch.equal(second.features, drawn[2])
    # A run that stops here and goes on from its checkpoint draws what the whole run drew.
    resumed = performer(Pattern.NONCAUSAL_SELF, redraw_every=2).train()
    resumed.load_state_dict(second.state_dict())
    resumed(query)
    resumed(query)
    assert torch.equal(resumed.features, drawn[4])
    resumed.eval()
    resumed(query)
    resumed(query)
    assert torch.equal(resumed.features, drawn[4])


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_state_is_the_sums_and_their_stabiliser(pattern: Pattern) -> None:
    attention = performer(pattern, num_features=20)
    state = attention.init_state(3, draw(0, 3, 50, 16) if pattern.is_cross else None)
    _, state = attention.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == 3 * 2 * (20 * (8 + 1) + 1) * 8  # batch, heads, R (D + 1) + 1, bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_features": 0}, "num_features must be positive, got 0"),
        ({"redraw_every": 0}, "redraw_every must be positive or null, got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        performer(Pattern.CAUSAL_SELF, **settings)
