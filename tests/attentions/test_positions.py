"""Rotary positions in every mechanism that takes them, and ALiBi in softmax."""

import pytest
import torch
from torch import Tensor

from attentions import registry
from attentions.base import Attention, MultiHeadAttention, Pattern
from attentions.functional.positions import rotate
from tests.attentions.claims import CLAIMS, build, draw, each, inputs

LENGTH = 21


def takes_rotary(name: str) -> bool:
    mechanism = registry.mechanism(registry.load(name)["_target_"])
    return issubclass(mechanism, MultiHeadAttention) and mechanism.takes_rotary


ROTARY = [claim for claim in CLAIMS if takes_rotary(claim[0]) and not claim[1].is_cross]


def decoded(attention: Attention, query: Tensor) -> Tensor:
    state, outputs = attention.init_state(len(query)), []
    for token in query.split(1, dim=1):
        output, state = attention.step(token, state)
        outputs.append(output)
    return torch.cat(outputs, dim=1)


@each(ROTARY)
def test_rotary_turns_queries_and_keys_and_nothing_else(name: str, pattern: Pattern) -> None:
    turning, plain = build(name, pattern, rotary=100.0), build(name, pattern)
    assert isinstance(plain, MultiHeadAttention)
    plain.load_state_dict(turning.state_dict())
    query, _ = inputs(pattern, LENGTH)
    q, k, v = (
        proj(query).unflatten(-1, (-1, plain.head_dim)).transpose(1, 2)
        for proj in (plain.q_proj, plain.k_proj, plain.v_proj)
    )
    positions = torch.arange(LENGTH)[None]
    mixed = plain.mix(rotate(q, positions, 100.0), rotate(k, positions, 100.0), v)
    expected = plain.out_proj(mixed.transpose(1, 2).flatten(-2))
    torch.testing.assert_close(turning(query), expected)
    assert (turning(query) - plain(query)).abs().amax() > 1e-3


@each([claim for claim in ROTARY if claim[1].is_causal])
def test_rotary_steps_equal_the_parallel_form(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern, rotary=100.0)
    query, _ = inputs(pattern, LENGTH)
    torch.testing.assert_close(decoded(attention, query), attention(query))
    _, state = attention.prefill(query[:, :-1], attention.init_state(2))
    torch.testing.assert_close(attention.step(query[:, -1:], state)[0], attention(query)[:, -1:])


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("softmax", {"rotary": 100.0}),
        ("local_window", {"rotary": 1e2}),
        ("softmax", {"alibi": True}),
    ],
)
@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF])
def test_only_distances_count(name: str, positions: dict[str, float], pattern: Pattern) -> None:
    attention = build(name, pattern, **positions)
    query, _ = inputs(pattern, LENGTH)
    moved = torch.cat([draw(7, 2, 5, query.shape[-1]), query], dim=1)
    padding = (torch.arange(LENGTH + 5) < 5).expand(2, -1)
    torch.testing.assert_close(attention(moved, key_padding_mask=padding)[:, 5:], attention(query))


@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF])
@pytest.mark.parametrize("padded", [False, True])
def test_alibi_weighs_by_the_distance(pattern: Pattern, padded: bool) -> None:
    attention = build("softmax", pattern, alibi=True)
    assert isinstance(attention, MultiHeadAttention)
    attention.q_proj.weight.data.zero_()
    attention.q_proj.bias.data.zero_()  # all scores are zero: the bias alone decides
    query, _ = inputs(pattern, 6)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 2] = padded
    outputs = attention(query, key_padding_mask=padding)
    v = attention.v_proj(query)
    for b in range(2):
        for i in range(6):
            rows = []
            for h, slope in enumerate((1 / 16, 1 / 256)):  # of two heads
                seen = range(i + 1) if pattern.is_causal else range(6)
                seen = [j for j in seen if not padding[b, j]]
                weights = torch.tensor([2.718281828459045 ** (-slope * abs(i - j)) for j in seen])
                values = v[b, seen, 8 * h : 8 * h + 8]
                rows.append(weights.double() @ values / weights.double().sum())
            # Weights in float32.
            torch.testing.assert_close(
                outputs[b, i], attention.out_proj(torch.cat(rows)), rtol=1e-5, atol=1e-6
            )
    if pattern.is_causal:
        torch.testing.assert_close(decoded(attention, query), attention(query))


@pytest.mark.parametrize(
    ("name", "pattern", "settings", "told"),
    [
        ("performer", "causal_self", {"rotary": 100.0}, "no plain product of q and k to turn"),
        ("softmax", "causal_cross", {"rotary": 100.0}, "causal_cross has two"),
        ("softmax", "causal_cross", {"alibi": True}, "causal_cross has two"),
        ("softmax", "causal_self", {"rotary": 0.0}, "rotary must be positive or null, got 0.0"),
        ("softmax", "causal_self", {"rotary": 1e4, "num_heads": 16}, "even head_dim, got 1"),
    ],
)
def test_what_cannot_be_is_refused(
    name: str, pattern: str, settings: dict[str, float], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        build(name, Pattern(pattern), **settings)
