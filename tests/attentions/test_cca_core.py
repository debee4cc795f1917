"""Core context aware attention where it is softmax attention, its cores and its state."""

import pytest
import torch

from attentions.base import Pattern
from attentions.lowrank.cca_core import CoreContextAttention
from tests.attentions.claims import build, draw, inputs

BOTH_SELF = [Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_SELF]


def cca(pattern: Pattern, **settings: float | None) -> CoreContextAttention:
    attention = build("cca_core", pattern, **settings)
    assert isinstance(attention, CoreContextAttention)
    return attention


@pytest.mark.parametrize(
    ("pattern", "settings"),
    [(pattern, {"group_size": 1, "window": 3}) for pattern in Pattern]
    + [(pattern, {"group_size": 4, "window": 70}) for pattern in BOTH_SELF],
)
def test_cores_of_one_token_and_long_windows_give_softmax_attention(
    pattern: Pattern, settings: dict[str, int]
) -> None:
    attention = cca(pattern, **settings)
    softmax = build("softmax", pattern)
    softmax.load_state_dict(attention.state_dict())
    query, context = inputs(pattern, 70)
    torch.testing.assert_close(attention(query, context), softmax(query, context))


@pytest.mark.parametrize("pattern", list(Pattern))
def test_equal_tokens_in_each_group_leave_weights_of_their_number(pattern: Pattern) -> None:
    # A core is the token then: softmax attention in which a far group counts once, not four times.
    # Over several blocks of queries.
    attention = cca(pattern, group_size=4, window=6)
    q = draw(0, 2, 2, 160, 8)
    k, v = (draw(seed, 2, 2, 40, 8).repeat_interleave(4, dim=2) for seed in (1, 2))
    i, j = torch.arange(160)[:, None], torch.arange(160)
    start = j // 4 * 4
    is_far = start + 3 <= i - 6
    if pattern is Pattern.NONCAUSAL_SELF:
        is_far = is_far | (start >= i + 6)
    weights = (q @ k.mT / 8**0.5).exp() * torch.where(is_far | pattern.is_cross, 0.25, 1.0)
    if pattern is Pattern.CAUSAL_SELF:
        weights = weights.tril()
    expected = weights / weights.sum(dim=-1, keepdim=True) @ v
    if pattern.is_cross:
        k = torch.cat([k, draw(3, 2, 2, 160, 8)], dim=1)  # any queries pool equal tokens alike
    torch.testing.assert_close(attention.mix(q, k, v), expected)


def test_the_last_token_of_a_group_pools_it() -> None:
    attention = cca(Pattern.CAUSAL_SELF, group_size=4, window=2)
    q, k, v = (draw(seed, 1, 2, 12, 8).requires_grad_() for seed in range(3))
    far_query = attention.mix(q, k, v)[:, :, 11].sum()
    (grad,) = torch.autograd.grad(far_query, [q])
    moved = (grad.abs().amax(dim=(0, 1, 3)) > 0).nonzero().flatten().tolist()
    assert moved == [3, 7, 11]


@pytest.mark.parametrize("rotary", [None, 100.0])
def test_decoding_over_many_groups_equals_the_parallel_form(rotary: float | None) -> None:
    attention = cca(Pattern.CAUSAL_SELF, group_size=3, window=2, rotary=rotary)
    query = draw(0, 2, 40, 16)
    expected = attention(query)
    for prompt in (0, 1, 3, 5, 20):
        state, parts = attention.init_state(2), []
        if prompt:
            answered, state = attention.prefill(query[:, :prompt], state)
            parts.append(answered)
        for t in range(prompt, 40):
            answered, state = attention.step(query[:, t, None], state)
            parts.append(answered)
        torch.testing.assert_close(torch.cat(parts, dim=1), expected)


def test_state_is_a_core_per_group_and_the_window() -> None:
    attention = cca(Pattern.CAUSAL_SELF, group_size=4, window=6)
    _, state = attention.prefill(draw(0, 3, 50, 16), attention.init_state(3))
    # batch, 12 cores and 6 + 4 - 1 tokens, k and v, embed_dim, float64
    assert state.num_bytes == 3 * (12 + 9) * 2 * 16 * 8
    cross = cca(Pattern.CAUSAL_CROSS, group_size=4)
    state = cross.init_state(3, draw(0, 3, 50, 16))
    assert state.num_bytes == 3 * 13 * 2 * 16 * 8  # the last core is of two tokens


@pytest.mark.parametrize("setting", ["group_size", "window"])
def test_bad_settings_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be positive, got 0"):
        cca(Pattern.CAUSAL_SELF, **{setting: 0})
