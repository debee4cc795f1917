"""Synthesizers where they are softmax attention or a mean, their state, their limit of length."""

import pytest
import torch
from torch import Tensor

from attentions.base import Attention, MultiHeadAttention, Pattern, UnsupportedPattern
from tests.attentions.claims import build, draw, inputs
from tests.oracles import synthesizer_random

SELF = [Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF]
BOTH = pytest.mark.parametrize("name", ["synthesizer", "synthesizer_random"])


def heads(name: str, pattern: Pattern, **settings: int) -> MultiHeadAttention:
    attention = build(name, pattern, **settings)
    assert isinstance(attention, MultiHeadAttention)
    return attention


@pytest.mark.parametrize("pattern", list(Pattern))
def test_dense_without_logits_is_the_mean_of_the_values(pattern: Pattern) -> None:
    attention = build("synthesizer", pattern)
    with torch.no_grad():
        attention.get_parameter("second_layer").zero_()
    query, context = inputs(pattern, 9)
    expected = mean_of_values(attention, query if context is None else context)
    if pattern is not Pattern.CAUSAL_SELF:
        expected = expected[:, -1:].expand(-1, 9, -1)
    torch.testing.assert_close(attention(query, context), expected)


def mean_of_values(attention: Attention, context: Tensor) -> Tensor:
    """The running mean, through the output projection."""
    v = attention.get_submodule("v_proj")(context)
    counts = torch.arange(1, v.shape[1] + 1, dtype=v.dtype)[:, None]
    return attention.get_submodule("out_proj")(v.cumsum(dim=1) / counts)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_dense_is_softmax_attention_whose_keys_are_its_second_layer(pattern: Pattern) -> None:
    attention, softmax = heads("synthesizer", pattern), heads("softmax", pattern)
    num_keys = 7 if pattern.is_cross else 9
    q = draw(3, 2, 2, 9, 8).abs()  # which relu leaves alone
    v = draw(4, 2, 2, num_keys, 8)
    k = attention.get_parameter("second_layer")[:, :num_keys].expand(2, -1, -1, -1)
    # Softmax attention divides its logits by sqrt D.
    expected = softmax.mix(q, k * 8**0.5, v)
    torch.testing.assert_close(attention.mix(q, torch.zeros_like(v), v), expected)


@pytest.mark.parametrize("pattern", SELF)
def test_random_of_full_rank_has_any_table_of_logits(pattern: Pattern) -> None:
    attention = heads("synthesizer_random", pattern, rank=12, max_len=12)
    table = draw(5, 2, 12, 12)
    with torch.no_grad():
        attention.get_parameter("query_factor").copy_(table)
        attention.get_parameter("key_factor").copy_(torch.eye(12))
    v = draw(6, 3, 2, 9, 8)
    logits = table[:, :9, :9]
    if pattern is Pattern.CAUSAL_SELF:
        logits = logits.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(attention.mix(v, v, v), logits.softmax(dim=-1) @ v)


@pytest.mark.parametrize("rank", [8, 20])  # the width of the values, and wider
def test_random_of_other_ranks_matches_the_oracle(rank: int) -> None:
    attention = build("synthesizer_random", Pattern.CAUSAL_SELF, rank=rank)
    query, _ = inputs(Pattern.CAUSAL_SELF, 20)
    mask = torch.zeros(2, 20, dtype=torch.bool)
    expected = synthesizer_random.oracle(attention, query, query, mask, mask)
    torch.testing.assert_close(attention(query), expected)


@BOTH
def test_the_state_is_the_values(name: str) -> None:
    attention = build(name, Pattern.CAUSAL_SELF)
    _, state = attention.prefill(draw(0, 3, 50, 16), attention.init_state(3))
    assert state.num_bytes == 3 * 50 * 16 * 8  # batch, length, embed_dim, float64


def test_parameters_are_counted_as_in_the_paper() -> None:
    dense = build("synthesizer", Pattern.CAUSAL_SELF)
    names = {name: p.numel() for name, p in dense.named_parameters() if name[0] not in "vo"}
    assert names == {"q_proj.weight": 16 * 16, "q_proj.bias": 16, "second_layer": 16 * 512}
    random = build("synthesizer_random", Pattern.CAUSAL_SELF)
    names = {name: p.numel() for name, p in random.named_parameters() if name[0] not in "vo"}
    assert names == {"query_factor": 2 * 512 * 5, "key_factor": 2 * 512 * 5}


@BOTH
def test_longer_inputs_than_max_len_are_refused(name: str) -> None:
    attention = build(name, Pattern.CAUSAL_SELF, max_len=4)
    message = "a sequence of length 5 is longer than max_len = 4"
    query = draw(0, 2, 5, 16)
    with pytest.raises(ValueError, match=message):
        attention(query)
    with pytest.raises(ValueError, match=message):
        attention.prefill(query, attention.init_state(2))
    _, state = attention.prefill(query[:, :4], attention.init_state(2))
    with pytest.raises(ValueError, match=message):
        attention.step(query[:, :1], state)


def test_only_the_context_of_the_cross_patterns_is_limited() -> None:
    attention = build("synthesizer", Pattern.CAUSAL_CROSS, max_len=4)
    with pytest.raises(ValueError, match="a context of length 5 is longer than max_len = 4"):
        attention(draw(0, 2, 3, 16), draw(1, 2, 5, 16))
    with pytest.raises(ValueError, match="a context of length 5 is longer than max_len = 4"):
        attention.init_state(2, draw(1, 2, 5, 16))
    assert attention(draw(0, 2, 9, 16), draw(1, 2, 4, 16)).shape == (2, 9, 16)


@BOTH
def test_max_len_is_needed(name: str) -> None:
    with pytest.raises(ValueError, match="needs max_len, the positions that have logits, got None"):
        build(name, Pattern.NONCAUSAL_SELF, max_len=None)


@pytest.mark.parametrize("rank", [0, -3])
def test_rank_must_be_positive(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank must be positive, got {rank}"):
        build("synthesizer_random", Pattern.CAUSAL_SELF, rank=rank)


def test_random_cross_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedPattern, match="the output would not read the query"):
        build("synthesizer_random", Pattern.CAUSAL_CROSS)
