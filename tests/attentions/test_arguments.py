"""Bad arguments and bad results: each refused, with what was wrong and what was expected."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attentions import registry
from attentions.base import Attention, MultiHeadAttention, Pattern, UnsupportedPattern
from tests.attentions.claims import EMBED_DIM, build, each, each_claim, each_name, inputs

UNCLAIMED = [
    (name, pattern)
    for name in registry.names()
    for pattern in Pattern
    if pattern not in registry.mechanism(registry.load(name)["_target_"]).patterns
]


@each(UNCLAIMED)
def test_an_unclaimed_pattern_is_refused_with_a_reason(name: str, pattern: Pattern) -> None:
    reason = registry.mechanism(registry.load(name)["_target_"]).refuses[pattern]
    with pytest.raises(UnsupportedPattern, match=rf"has no {pattern} \({re.escape(reason)}\)"):
        build(name, pattern)


@each_name
def test_a_misspelt_setting_is_refused(name: str) -> None:
    config = registry.load(name)
    config["misspelt"] = 3
    with pytest.raises(ValueError, match=f"{config['_target_']}: .*misspelt"):
        registry.factory(config)(EMBED_DIM, 2, first_claim(name), max_len=8)


@each_name
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide embed_dim, got 3 and 16"),
        ({"num_heads": 0}, "must be positive, got 16 and 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"max_len": 0}, "max_len must be positive, got 0"),
    ],
)
def test_bad_common_settings_are_refused(
    name: str, settings: dict[str, float], message: str
) -> None:
    arguments = {"embed_dim": EMBED_DIM, "num_heads": 2, "max_len": 8} | settings
    with pytest.raises(ValueError, match=message):
        registry.factory(registry.load(name))(**arguments, pattern=first_claim(name))


@each_name
def test_an_unknown_backend_is_refused(name: str) -> None:
    config = registry.load(name)
    config["backend"] = "abacus"
    with pytest.raises(ValueError, match=r"backend must be torch.*, got 'abacus'"):
        registry.factory(config)(EMBED_DIM, 2, first_claim(name), max_len=8)


def first_claim(name: str) -> Pattern:
    claimed = registry.mechanism(registry.load(name)["_target_"]).patterns
    return next(pattern for pattern in Pattern if pattern in claimed)


@each_claim
def test_bad_inputs_are_refused(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, 6)
    keys = query if context is None else context

    def refused(message: str) -> "pytest.RaisesExc[ValueError]":
        return pytest.raises(ValueError, match=f"{type(attention).__name__}: {message}")

    with refused(r"query must be \(batch, length, embed_dim = 16\), got \(2, 6, 15\)"):
        attention(query[..., :-1], context)
    with refused(r"query must be .* got \(6, 16\)"):
        attention(query[0], context)
    with refused("query must have at least one position"):
        attention(query[:, :0], context)
    with refused("query_padding_mask must be bool with True for padding, got torch.float32"):
        attention(query, context, query_padding_mask=torch.zeros(2, 6))
    with refused(r"query_padding_mask must be \(batch, query length\) = \(2, 6\), got \(2, 5\)"):
        attention(query, context, query_padding_mask=torch.zeros(2, 5, dtype=torch.bool))
    with refused(rf"key_padding_mask must be .* = \(2, {keys.shape[1]}\), got \(2, 99\)"):
        attention(query, context, key_padding_mask=torch.zeros(2, 99, dtype=torch.bool))
    if context is None:
        with refused(f"{pattern} takes no context"):
            attention(query, query)
    else:
        with refused(f"{pattern} needs a context, got None"):
            attention(query)
        with refused("context must have the query's batch size 2, got 1"):
            attention(query, context[:1])


Returned = Callable[[Tensor], Any]
"""From a right result to a wrong one."""


class Careless(MultiHeadAttention):
    """Means of the values, from which `returned` makes what `mix` and `read` return."""

    patterns = frozenset({Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS})

    def __init__(self, returned: Returned, pattern: Pattern) -> None:
        super().__init__(12, 2, pattern)
        self.returned = returned

    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Tensor | None) -> Tensor:
        return self.read(q, {"v": v})

    def absorb(self, memory: Any, k: Tensor, v: Tensor, **_: Any) -> dict[str, Tensor]:
        return {"v": v}

    def read(self, q: Tensor, memory: Any, *, position: int = 0) -> Tensor:
        return self.returned(memory["v"].mean(dim=2, keepdim=True) + 0.0 * q)


class CarelessStream(Attention):
    """Its query, from which `returned` makes what `attend` returns."""

    patterns = frozenset({Pattern.NONCAUSAL_CROSS})

    def __init__(self, returned: Returned) -> None:
        super().__init__(12, 2, Pattern.NONCAUSAL_CROSS)
        self.returned = returned

    def attend(self, query: Tensor, context: Tensor, **masks: Tensor | None) -> Tensor:
        return self.returned(query)


NOTHING = (lambda right: None, "got NoneType")
A_PAIR = (lambda right: (right, right), "got tuple")


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        NOTHING,
        A_PAIR,
        (lambda right: right[..., 0], r"got Tensor of \(3, 2, 5\)"),
        (lambda right: right[:, :1], r"got Tensor of \(3, 1, 5, 6\)"),
        (lambda right: right[:, :, :4], r"got Tensor of \(3, 2, 4, 6\)"),
        (lambda right: right.transpose(1, 2), r"got Tensor of \(3, 5, 2, 6\)"),
    ],
)
def test_what_mix_or_read_returns_wrongly_is_named(returned: Returned, got: str) -> None:
    query, context = torch.randn(3, 5, 12), torch.randn(3, 7, 12)
    sizes = r"\(batch, heads, query length, head_dim\) = \(3, 2, 5, 6\), "
    with pytest.raises(ValueError, match="Careless: mix must return one tensor " + sizes + got):
        Careless(returned, Pattern.NONCAUSAL_CROSS)(query, context)
    decoding = Careless(returned, Pattern.CAUSAL_CROSS)
    state = decoding.init_state(3, context)
    with pytest.raises(ValueError, match="Careless: read must return one tensor " + sizes + got):
        decoding.prefill(query, state)


@pytest.mark.parametrize(
    ("returned", "got"),
    [NOTHING, A_PAIR, (lambda right: right[:, :4], r"got Tensor of \(3, 4, 12\)")],
)
def test_what_attend_returns_wrongly_is_named(returned: Returned, got: str) -> None:
    expected = r"attend must return one tensor \(batch, length, embed_dim\) = \(3, 5, 12\), "
    with pytest.raises(ValueError, match="CarelessStream: " + expected + got):
        CarelessStream(returned)(torch.randn(3, 5, 12), torch.randn(3, 7, 12))
