"""Nyström attention where it is exact, its segments and its pseudo-inverse."""

import pytest
import torch

from attentions.base import Attention, Pattern, UnsupportedPattern
from attentions.lowrank.nystrom import NystromAttention, pseudo_inverse
from tests.attentions.claims import build, draw, inputs

CLAIMED = sorted(NystromAttention.patterns)


def without_convolution(pattern: Pattern, **settings: int) -> Attention:
    attention = build("nystrom", pattern, **settings)
    assert isinstance(attention, NystromAttention)
    if attention.conv is not None:
        torch.nn.init.zeros_(attention.conv.weight)
    return attention


def softmax_of(attention: Attention) -> Attention:
    """Softmax attention with the same projections."""
    softmax = build("softmax", attention.pattern)
    softmax.load_state_dict(attention.state_dict(), strict=False)
    return softmax


@pytest.mark.parametrize("pattern", CLAIMED)
def test_up_to_as_many_positions_as_landmarks_it_is_softmax_attention(pattern: Pattern) -> None:
    attention = without_convolution(pattern, num_landmarks=20)
    softmax = softmax_of(attention)
    query, context = inputs(pattern, 20)
    torch.testing.assert_close(attention(query, context), softmax(query, context))


@pytest.mark.parametrize("pattern", CLAIMED)
@pytest.mark.parametrize("num_repeats", [[3, 3, 3, 3, 3], [3, 3, 3, 4, 4]])
def test_segments_of_equal_tokens_make_it_softmax_attention(
    pattern: Pattern, num_repeats: list[int]
) -> None:
    # Then the landmarks are the tokens, and F A^+ B = A A^+ B = B where the inverse has converged.
    attention = without_convolution(pattern, num_landmarks=5, num_iterations=30)
    repeats = torch.tensor(num_repeats)
    query = draw(0, 2, 5, 16).repeat_interleave(repeats, dim=1)
    context = draw(1, 2, 5, 16).repeat_interleave(repeats, dim=1) if pattern.is_cross else None
    expected = softmax_of(attention)(query, context)
    # The inverse of a nearly singular matrix multiplies rounding by up to its condition, some 1e3.
    torch.testing.assert_close(attention(query, context), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pattern", CLAIMED)
def test_few_unpadded_positions_among_many_are_attended_to_exactly(pattern: Pattern) -> None:
    attention = without_convolution(pattern, num_landmarks=5)
    query, context = inputs(pattern, 30)
    short = torch.ones(2, 30, dtype=torch.bool)
    short[:, [3, 11, 12, 29]] = False
    masks = {"query_padding_mask": short}
    if context is not None:
        masks["key_padding_mask"] = torch.zeros(context.shape[:2], dtype=torch.bool)
        masks["key_padding_mask"][:, 7] = True  # more keys than landmarks
    actual = attention(query, context, **masks)[~short]
    torch.testing.assert_close(actual, softmax_of(attention)(query, context, **masks)[~short])


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_iteration_converges_to_the_inverse(scale: float) -> None:
    a = (scale * draw(0, 4, 2, 6, 6)).softmax(dim=-1)
    expected = torch.linalg.pinv(a)
    # Errors are relative to the largest entries, which grow with the condition of the matrix.
    atol = 1e-9 * expected.abs().amax().item()
    torch.testing.assert_close(pseudo_inverse(a, 60), expected, rtol=0.0, atol=atol)


def test_the_iteration_of_one_matrix_is_blind_to_the_others() -> None:
    a = draw(0, 2, 2, 6, 6)
    a[1] *= 9.0  # other column sums
    a = a.softmax(dim=-1)
    torch.testing.assert_close(pseudo_inverse(a, 6)[:1], pseudo_inverse(a[:1], 6))


def test_only_the_self_pattern_has_a_convolution() -> None:
    own = build("nystrom", Pattern.NONCAUSAL_SELF, conv_kernel=7)
    cross = build("nystrom", Pattern.NONCAUSAL_CROSS, conv_kernel=7)
    names = {name for name, _ in own.named_parameters()}
    assert names - {name for name, _ in cross.named_parameters()} == {"conv.weight"}
    assert own.get_parameter("conv.weight").numel() == 2 * 7  # heads, kernel


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_causal_patterns_are_refused_with_the_reason(pattern: Pattern) -> None:
    with pytest.raises(UnsupportedPattern, match="a later one would leak"):
        build("nystrom", pattern)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("num_landmarks", 0, "num_landmarks must be positive, got 0"),
        ("num_iterations", -1, "num_iterations must be positive, got -1"),
        ("conv_kernel", 4, "conv_kernel must be odd and positive, got 4"),
        ("conv_kernel", -1, "conv_kernel must be odd and positive, got -1"),
    ],
)
def test_bad_settings_are_refused(setting: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("nystrom", Pattern.NONCAUSAL_SELF, **{setting: value})
