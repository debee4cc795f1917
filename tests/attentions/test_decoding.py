"""Token by token: steps and prefill against the parallel form, and the size of the state."""

import pytest
import torch
from torch import Tensor

from attentions.base import Attention, Pattern, State, UnsupportedPattern
from tests.attentions.claims import (
    CLAIMS,
    EMBED_DIM,
    block,
    build,
    draw,
    each,
    each_causal_claim,
    facts,
    holes,
    inputs,
)


def steps(attention: Attention, query: Tensor, state: State) -> tuple[Tensor, State]:
    """Answer the tokens of a query one by one."""
    rows = []
    for i in range(query.shape[1]):
        row, state = attention.step(query[:, i, None], state)
        rows.append(row)
    return torch.cat(rows, dim=1), state


@each_causal_claim
@pytest.mark.parametrize("prompt", ["none", "one token", "a block", "more"])
def test_steps_and_prefill_equal_the_parallel_form(
    name: str, pattern: Pattern, prompt: str
) -> None:
    attention = build(name, pattern)
    length = 2 * block(name) + 3
    start = {"none": 0, "one token": 1, "a block": block(name), "more": block(name) + 2}[prompt]
    query, context = inputs(pattern, length, batch_size=3)
    mask = None if context is None else holes(2, 3, context.shape[1])
    with torch.no_grad():
        expected = attention(query, context, key_padding_mask=mask)
    state = attention.init_state(3, context, mask)
    parts = []
    if start:
        answered, state = attention.prefill(query[:, :start], state)
        parts.append(answered)
    answered, state = steps(attention, query[:, start:], state)
    assert state.position == length
    torch.testing.assert_close(torch.cat([*parts, answered], dim=1), expected)


@each_causal_claim
def test_state_has_the_size_that_it_promises(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, 40)
    _, first = attention.step(query[:, :1], attention.init_state(2, context))
    size = first.num_bytes
    _, last = steps(attention, query[:, 1:], first)
    _, prefilled = attention.prefill(query, attention.init_state(2, context))
    keeps_all = getattr(facts(name), "STATE_GROWS", False)
    for state in (last, prefilled):
        assert (state.num_bytes > size) == (keeps_all and context is None)
    # Steps carry what a prefill does, but for the room of a buffer that doubles when it is full.
    assert last.tensors.keys() == prefilled.tensors.keys()
    for name, tensor in prefilled.tensors.items():
        assert tensor.numel() <= last.tensors[name].numel() <= 2 * tensor.numel()
    if context is not None:
        longer = attention.init_state(2, draw(0, 2, 3 * context.shape[1], EMBED_DIM))
        assert (longer.num_bytes > size) == keeps_all


LENGTHS = (1, 63, 64, 65, 130)
"""Around the border of a block of 64, and of whatever has half or a fourth of that."""


@each_causal_claim
def test_state_has_as_many_elements_as_its_formula_says(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, max(LENGTHS))
    for length in LENGTHS:
        # In causal cross it is the context that is absorbed, whatever number of queries.
        given = None if context is None else draw(2, 2, length, EMBED_DIM)
        asked = query[:, : length if context is None else 2]
        _, state = attention.prefill(asked, attention.init_state(2, given))
        expected = attention.state_elements(asked.shape[1], None if given is None else length)
        assert elements(state) == 2 * expected


def test_a_short_convolution_carries_what_it_still_sees() -> None:
    attention = build("base_conv", Pattern.CAUSAL_SELF, kernel_size=4)
    query, _ = inputs(Pattern.CAUSAL_SELF, 9)
    _, state = attention.prefill(query, attention.init_state(2))
    assert elements(state) == 2 * attention.state_elements(9) == 2 * 3 * EMBED_DIM


def elements(state: State) -> int:
    return sum(tensor.numel() for tensor in state.tensors.values())


@each([claim for claim in CLAIMS if not claim[1].is_causal])
def test_noncausal_patterns_have_no_size_of_a_state(name: str, pattern: Pattern) -> None:
    with pytest.raises(UnsupportedPattern, match=f"has no {pattern} .only causal patterns decode"):
        build(name, pattern).state_elements(4)


@pytest.mark.parametrize(
    ("pattern", "lengths", "message"),
    [
        (Pattern.CAUSAL_SELF, (4, 4), "causal_self takes no context_len, got 4"),
        (Pattern.CAUSAL_CROSS, (4,), "causal_cross needs a context_len, got None"),
        (Pattern.CAUSAL_SELF, (0,), "num_tokens must be positive, got 0"),
        (Pattern.CAUSAL_CROSS, (4, 0), "context_len must be positive, got 0"),
    ],
)
def test_bad_lengths_of_a_state_raise(
    pattern: Pattern, lengths: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build("softmax", pattern).state_elements(*lengths)


@each_causal_claim
def test_selected_rows_go_on_as_if_they_had_always_been_there(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, 12, batch_size=3)
    rows = torch.tensor([2, 0, 2])
    _, state = steps(attention, query[:, :8], attention.init_state(3, context))
    actual, _ = steps(attention, query[rows, 8:], state.select(rows))
    with torch.no_grad():
        expected = attention(query[rows], None if context is None else context[rows])[:, 8:]
    torch.testing.assert_close(actual, expected)


@each([claim for claim in CLAIMS if not claim[1].is_causal])
def test_noncausal_patterns_do_not_decode(name: str, pattern: Pattern) -> None:
    _, context = inputs(pattern, 4)
    with pytest.raises(ValueError, match=f"{pattern} has no decoding state"):
        build(name, pattern).init_state(2, context)


@each_causal_claim
def test_bad_decoding_arguments_raise(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, 4)
    if context is None:
        with pytest.raises(ValueError, match="takes no context"):
            attention.init_state(2, query)
        with pytest.raises(ValueError, match="key_padding_mask without a context"):
            attention.init_state(2, None, torch.zeros(2, 4, dtype=torch.bool))
    else:
        with pytest.raises(ValueError, match="needs a context"):
            attention.init_state(2)
        with pytest.raises(ValueError, match=r"key_padding_mask must be \(batch, context length\)"):
            attention.init_state(2, context, torch.zeros(2, 1, dtype=torch.bool))
    state = attention.init_state(2, context)
    with pytest.raises(ValueError, match="a step takes one token, got 4"):
        attention.step(query, state)
    with pytest.raises(ValueError, match=r"query must be \(batch, length, embed_dim = 16\)"):
        attention.step(query[..., :-1], state)
    _, state = attention.step(query[:, :1], state)
    with pytest.raises(ValueError, match="prefill starts from position 0, got a state at 1"):
        attention.prefill(query, state)
