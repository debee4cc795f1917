"""Flow-attention of equal capacities, what it conserves, why it refuses a pattern, its state."""

from typing import Any

import pytest
import torch

from attentions.base import Pattern, UnsupportedPattern
from attentions.linear.flow import FlowAttention
from tests.attentions.claims import build, draw, inputs
from tests.oracles.flow import oracle

CLAIMED = sorted(FlowAttention.patterns)


def flow(pattern: Pattern, **settings: Any) -> FlowAttention:
    attention = build("flow", pattern, **{"eps": 1e-12, **settings})
    assert isinstance(attention, FlowAttention)
    return attention


@pytest.mark.parametrize("pattern", CLAIMED)
def test_equal_capacities_give_the_mean_of_the_values_times_sigmoid_of_one(
    pattern: Pattern,
) -> None:
    # Each source then sends as much as each other one, and to each sink arrives a flow of one.
    q, v = torch.zeros(2, 2, 70, 8, dtype=torch.float64), draw(1, 2, 2, 90, 8)
    if not pattern.is_cross:
        v = v[:, :, :70]
    k = torch.zeros_like(v)
    expected = v.mean(dim=2, keepdim=True).expand_as(q)
    if pattern is Pattern.CAUSAL_SELF:
        expected = v.cumsum(dim=2) / torch.arange(1, 71)[:, None]
    sigmoid_of_one = torch.tensor(1.0, dtype=torch.float64).sigmoid()
    torch.testing.assert_close(flow(pattern).mix(q, k, v), expected * sigmoid_of_one)


@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS])
def test_a_source_of_more_capacity_does_not_send_more(pattern: Pattern) -> None:
    # What keys send is normalised by their share of what queries take in: were it not for the
    # clamp at one, a key would gain by its capacity alone, as in linear attention.
    q = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
    k = torch.tensor([0.0, 0.0, 0.0, 2.0], dtype=torch.float64)[:, None].expand(1, 1, 4, 8)
    v = torch.eye(4, 8, dtype=torch.float64)[None, None]
    sent = flow(pattern, clamp=1.0).mix(q, k, v)[0, 0, 0, :4]
    # Capacities 0.5, 0.5, 0.5, s; leaves c_j = 4 k_j / sum k, at most 1; weights k_j e^c_j.
    capacity = k[0, 0, :, 0].sigmoid()
    competition = (4 * capacity / capacity.sum()).clamp(max=1.0).exp()
    expected = capacity / capacity.sum() * 4 * competition / competition.sum()
    allocation = torch.tensor(1.0, dtype=torch.float64).sigmoid()  # each sink takes in one
    torch.testing.assert_close(sent, allocation * expected)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(60, 6), (6, 60)])
def test_keys_compete_whatever_the_number_of_queries(num_queries: int, num_keys: int) -> None:
    # Of one query each value is taken in by its key's capacity times its competing weight, which
    # differs from key to key: with all keys cut to the same it would be the capacity's share alone.
    attention = flow(Pattern.NONCAUSAL_CROSS)
    q, k = draw(0, 1, 1, num_queries, 64), draw(1, 1, 1, num_keys, 64)
    v = torch.eye(num_keys, dtype=torch.float64)[None, None]
    capacity = q.sigmoid() @ k.sigmoid().mT
    competition = attention.mix(q, k, v)[0, 0] / capacity[0, 0]
    spread = competition / competition.mean(dim=-1, keepdim=True)
    # What leaves a key is queries over keys on average, and differs by a tenth of that.
    leaves = (capacity / capacity.sum(dim=-1, keepdim=True)).sum(dim=-2)[0, 0]
    expected = leaves.softmax(dim=-1) * num_keys
    torch.testing.assert_close(spread, expected.expand_as(spread))
    limited = flow(Pattern.NONCAUSAL_CROSS, clamp=1.0).mix(q, k, v)[0, 0] / capacity[0, 0]
    is_cut = torch.allclose(limited, limited[:, :1].expand_as(limited))
    assert is_cut == (num_queries > num_keys)


@pytest.mark.parametrize("pattern", CLAIMED)
@pytest.mark.parametrize("clamp", [0.5, 5.0])
def test_another_clamp_matches_the_oracle(pattern: Pattern, clamp: float) -> None:
    attention = flow(pattern, clamp=clamp)
    query, context = inputs(pattern, 20)
    none = torch.zeros(2, 20, dtype=torch.bool)
    keys = query if context is None else context
    expected = oracle(attention, query, keys, none, none[:, : keys.shape[1]])
    torch.testing.assert_close(attention(query, context), expected)


def test_causal_cross_is_refused_for_a_reason() -> None:
    with pytest.raises(UnsupportedPattern, match="keys compete for the flow to all queries"):
        flow(Pattern.CAUSAL_CROSS)
    attention = flow(Pattern.NONCAUSAL_CROSS)
    query, context = draw(0, 1, 6, 16), draw(1, 1, 5, 16)
    other = torch.cat([query[:, :-1], 9 * query[:, -1:]], dim=1)
    difference = attention(other, context)[:, :-1] - attention(query, context)[:, :-1]
    assert difference.abs().amax() > 1e-3


def test_the_state_is_five_sums_and_one_matrix_per_head() -> None:
    attention = flow(Pattern.CAUSAL_SELF)
    _, state = attention.prefill(draw(0, 3, 50, 16), attention.init_state(3))
    assert state.num_bytes == 3 * 2 * (4 * 8 + 1 + 8 * 8) * 8  # batch, heads, sums, float64


def test_single_precision_is_close_over_a_long_sequence() -> None:
    attention = flow(Pattern.CAUSAL_SELF, eps=1e-6)
    q, k, v = (draw(seed, 1, 2, 4096, 8) for seed in range(3))
    expected = attention.mix(q, k, v)
    actual = attention.mix(q.float(), k.float(), v.float()).double()
    # 4096 additions, each rounded: an error of sqrt(4096) units in the last place, or 8e-6.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0.0}, r"eps must be positive, got 0\.0"),
        ({"eps": -1e-6}, "eps must be positive, got -1e-06"),
        ({"clamp": 0.0}, r"clamp must be null or from 0 to 50, got 0\.0"),
        ({"clamp": torch.inf}, "clamp must be null or from 0 to 50, got inf"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flow(Pattern.CAUSAL_SELF, **settings)
