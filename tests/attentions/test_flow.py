"""Flow-attention of equal capacities, what it conserves, why it refuses a pattern, its state."""

import pytest
import torch

from attentions.base import Pattern, UnsupportedPattern
from attentions.linear.flow import FlowAttention
from tests.attentions.claims import build, draw

CLAIMED = sorted(FlowAttention.patterns)


def flow(pattern: Pattern, eps: float = 1e-12) -> FlowAttention:
    attention = build("flow", pattern, eps=eps)
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
    sent = flow(pattern).mix(q, k, v)[0, 0, 0, :4]
    # Capacities 0.5, 0.5, 0.5, s; leaves c_j = 4 k_j / sum k, at most 1; weights k_j e^c_j.
    capacity = k[0, 0, :, 0].sigmoid()
    competition = (4 * capacity / capacity.sum()).clamp(max=1.0).exp()
    expected = capacity / capacity.sum() * 4 * competition / competition.sum()
    allocation = torch.tensor(1.0, dtype=torch.float64).sigmoid()  # each sink takes in one
    torch.testing.assert_close(sent, allocation * expected)


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


@pytest.mark.parametrize("eps", [0.0, -1e-6])
def test_eps_must_be_positive(eps: float) -> None:
    with pytest.raises(ValueError, match=f"eps must be positive, got {eps}"):
        flow(Pattern.CAUSAL_SELF, eps=eps)
