"""What every mechanism claims, in every pattern that it claims. A new one is tested as it stands.

Everything runs in float64, so 1e-9 leaves room for sums in another order and for nothing else.
"""

import copy
import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attentions import registry
from attentions.base import Attention, Pattern
from tests.attentions.claims import (
    EMBED_DIM,
    block,
    build,
    draw,
    each_causal_claim,
    each_claim,
    each_mixing_claim,
    facts,
    holes,
    inputs,
)


def compare(actual: Tensor, expected: Tensor, what: str = "") -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9, msg=lambda m: f"{what}: {m}")


def changed(actual: Tensor, reference: Tensor) -> Tensor:
    """Which rows (..., E) differ by more than rounding."""
    return (actual - reference).abs().amax(dim=-1) > 1e-6


@each_claim
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("blocks", "rest"), [(0, 1), (1, -1), (1, 0), (1, 1), (2, 5)])
def test_outputs_and_gradients_match_the_oracle(
    name: str, pattern: Pattern, blocks: int, rest: int, padded: bool
) -> None:
    attention = build(name, pattern)
    length = blocks * block(name) + rest
    leaves = [x.requires_grad_() for x in inputs(pattern, length, batch_size=3) if x is not None]
    query, context = leaves[0], leaves[1] if pattern.is_cross else None
    keys = query if context is None else context
    key_mask = holes(2, 3, keys.shape[1]) & padded
    query_mask = holes(3, 3, length) & padded if pattern.is_cross else key_mask
    masks = {"query_padding_mask": query_mask, "key_padding_mask": key_mask}

    expected = facts(name).oracle(attention, query, keys, **masks)
    # The row without keys or queries means nothing, but must not poison the others' gradients.
    counts = ~query_mask[..., None]
    # Without dropout, training computes the same; it comes last, for the gradients are its own.
    for training in [False] if attention.trains_otherwise else [False, True]:
        actual = attention.train(training)(query, context, **(masks if padded else {}))
        compare(actual * counts, expected * counts, f"outputs, {training=}")

    upstream = draw(4, *actual.shape) * counts
    names = [*(n for n, _ in attention.named_parameters()), "query", "context"]
    leaves = [*attention.parameters(), *leaves]
    gradients = [
        torch.autograd.grad(loss(output * upstream, query), leaves, materialize_grads=True)
        for output in (actual, expected)
    ]
    for leaf, ours, theirs in zip(names, *gradients, strict=False):
        compare(ours, theirs, f"gradient of {leaf}")


def loss(terms: Tensor, query: Tensor) -> Tensor:
    """Their sum; the query takes part even where, without attention, the output is constant."""
    return terms.sum() + 0.0 * query.sum()


@each_claim
def test_a_sample_of_padding_alone_gives_finite_outputs_and_gradients(
    name: str, pattern: Pattern
) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, block(name) + 1)
    keys = query if context is None else context
    output = attention(
        query.requires_grad_(),
        context,
        query_padding_mask=holes(0, 2, query.shape[1]),
        key_padding_mask=holes(0, 2, keys.shape[1]),
    )
    # The padded rows too go into the loss here: a task may sum before it masks.
    gradients = torch.autograd.grad(
        loss(output.square(), query), [query, *attention.parameters()], materialize_grads=True
    )
    assert all(x.isfinite().all() for x in (output, *gradients))


@each_causal_claim
@settings(deadline=None, max_examples=4, derandomize=True, database=None)
@given(
    past=st.integers(1, 80),
    future=st.integers(1, 80),
    scale=st.sampled_from([0.0, 1.0, 30.0]),
    seed=st.integers(0, 2**16),
)
def test_a_later_query_cannot_change_an_earlier_output(
    name: str, pattern: Pattern, past: int, future: int, scale: float, seed: int
) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, past + future, seed=seed)
    other = torch.cat([query[:, :past], scale * draw(seed + 2, 2, future, EMBED_DIM)], dim=1)
    with torch.no_grad():
        output = attention(query, context)[:, :past]
        compare(attention(other, context)[:, :past], output, "after other queries")
        compare(attention(query[:, :past], context), output, "with the later ones cut off")


@each_causal_claim
def test_no_position_leaks(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    length = block(name) + 3
    query, context = inputs(pattern, length, batch_size=1)
    output = with_one_row_changed(attention, query, context, scale=30.0)
    later = torch.ones(length, length, dtype=torch.bool).tril(-1)  # [t, i]: row t is after i
    with torch.no_grad():
        whole = attention(query, context)
        compare(output[later], whole.expand_as(output)[later], "after a change")
        for end in range(1, length):
            compare(attention(query[:, :end], context), whole[:, :end], f"cut off at {end}")


@each_mixing_claim
def test_every_output_depends_on_its_own_query(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, block(name) + 2, batch_size=1)
    output = with_one_row_changed(attention, query, context)
    with torch.no_grad():
        own = changed(output, attention(query, context)).diagonal()
    # A query with a single key to choose from (position 0 in causal self) moves with its value.
    assert own.all(), f"blind to their own query: {(~own).nonzero().flatten().tolist()}"


@each_mixing_claim
def test_outputs_depend_on_what_they_attend_to(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, 2 * block(name) + 2, batch_size=1)
    with torch.no_grad():
        output = attention(query, context)
        if context is not None:
            moved = changed(attention(query, draw(9, *context.shape)), output)
            assert moved.all(), "some outputs ignore the context"
        else:
            # Sparse mechanisms may have positions that see only themselves: most must not.
            length = query.shape[1]
            others = draw(9, length, length, EMBED_DIM)
            others[range(length), range(length)] = query[0]
            moved = changed(attention(others), output).diagonal()
            assert moved.float().mean() > 0.5, "most outputs ignore the other positions"


def with_one_row_changed(
    attention: Attention, query: Tensor, context: Tensor | None, scale: float = 1.0
) -> Tensor:
    """The outputs (M, M, E) where row t of the batch has another query at position t."""
    length = query.shape[1]
    other = query.repeat(length, 1, 1)
    other[range(length), range(length)] = scale * draw(8, length, EMBED_DIM)
    with torch.no_grad():
        return attention(other, None if context is None else context.expand(length, -1, -1))


@each_claim
@pytest.mark.parametrize("extra", [1, 70])
def test_padding_is_invisible(name: str, pattern: Pattern, extra: int) -> None:
    attention = build(name, pattern)
    length = block(name) + 3
    query, context = inputs(pattern, length)
    # Large garbage: whatever of it is taken in is seen.
    padding = 30.0 * draw(5, 2, extra, EMBED_DIM)
    long_query = torch.cat([query, padding], dim=1)
    masks = {"query_padding_mask": after(length, long_query)}
    long_context = None
    if context is not None:
        long_context = torch.cat([context, padding], dim=1)
        masks["key_padding_mask"] = after(context.shape[1], long_context)
    with torch.no_grad():
        output = attention(long_query, long_context, **masks)[:, :length]
        compare(output, attention(query, context))


def after(length: int, sequence: Tensor) -> Tensor:
    """The padding mask of a sequence (B, N, E) that ends at `length`."""
    return (torch.arange(sequence.shape[1]) >= length).expand(sequence.shape[:2])


@each_claim
def test_samples_of_a_batch_do_not_meet(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, block(name) + 3, batch_size=3)
    query[0] *= 30.0
    with torch.no_grad():
        together = attention(query, context)
        for row in range(3):
            alone = attention(query[row, None], None if context is None else context[row, None])
            compare(together[row, None], alone, f"sample {row}")


@each_claim
def test_two_runs_and_a_checkpoint_give_the_same_numbers(name: str, pattern: Pattern) -> None:
    torch.manual_seed(1)
    attention = build(name, pattern)
    torch.manual_seed(1)
    twin = build(name, pattern)
    restored = build(name, pattern)  # drawn from another state of the generator
    restored.load_state_dict(attention.state_dict())
    query, context = inputs(pattern, block(name) + 3)
    with torch.no_grad():
        output = attention(query, context)
        for other in (attention, twin, restored):
            assert torch.equal(other(query, context), output)


@each_claim
def test_a_pattern_by_its_name_is_the_pattern(name: str, pattern: Pattern) -> None:
    config = registry.load(name)
    config.update({"max_len": 64} | getattr(facts(name), "SETTINGS", {}))
    sizes = [config.pop("embed_dim", EMBED_DIM), config.pop("num_heads", 2)]
    settings = {str(key): value for key, value in config.items() if key != "_target_"}
    query, context = inputs(pattern, block(name) // 2 + 3)
    outputs = []
    # Past the registry, as code of one's own may build it; a plain string has no identity.
    for named in (pattern, pattern.value):
        torch.manual_seed(1)
        built: Any = registry.mechanism(config["_target_"])
        attention = built(*sizes, named, **settings).double().eval()
        with torch.no_grad():
            outputs.append(attention(query, context))
    assert torch.equal(*outputs)


@each_mixing_claim
def test_every_parameter_learns(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, 2 * block(name) + 1)
    (attention(query, context) * draw(6, *query.shape)).sum().backward()
    for parameter_name, parameter in attention.named_parameters():
        assert parameter.grad is not None, f"{parameter_name} is not used"
        assert parameter.grad.isfinite().all(), parameter_name
        if parameter_name != "k_proj.bias":  # a softmax over keys does not see a shift of them all
            assert parameter.grad.abs().amax() > 1e-8, f"{parameter_name} learns nothing"


@each_mixing_claim
def test_dropout_acts_in_training_and_not_in_evaluation(name: str, pattern: Pattern) -> None:
    torch.manual_seed(1)
    plain = build(name, pattern)
    torch.manual_seed(1)
    dropping = build(name, pattern, dropout=0.5)
    query, context = inputs(pattern, block(name) + 3)
    with torch.no_grad():
        compare(dropping(query, context), plain(query, context), "in evaluation")
        first, second = (dropping.train()(query, context) for _ in range(2))
    assert changed(first, second).float().mean() > 0.5, "dropout has no effect in training"


@each_mixing_claim
def test_in_training_with_dropout_nothing_hidden_is_seen(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern, dropout=0.3).train()
    length = block(name) + 3
    query, context = inputs(pattern, length, batch_size=3)
    keys = query if context is None else context
    key_mask = holes(2, 3, keys.shape[1])
    query_mask = holes(3, 3, length) if pattern.is_cross else key_mask
    masks = {"query_padding_mask": query_mask, "key_padding_mask": key_mask}

    def garbage(sequence: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask[..., None], 30.0 * draw(9, *sequence.shape), sequence)

    others = garbage(query, query_mask), None if context is None else garbage(context, key_mask)
    outputs = []
    for queries, contexts in ((query, context), others):
        torch.manual_seed(5)  # inputs of one shape then meet one dropout, and one noise
        fresh = copy.deepcopy(attention)  # some keep statistics from pass to pass
        with torch.no_grad():
            outputs.append(fresh(queries, contexts, **masks) * ~query_mask[..., None])
    compare(*outputs, "padding")

    # By gradients: what sorts by content may drop other weights where other queries stand.
    output = attention(query.requires_grad_(), context)
    hidden = {"another sample": (output[1:], slice(0, 1))}
    if pattern.is_causal:
        for past in (1, block(name), length - 1):
            places = (slice(None), slice(past, None))
            hidden[f"queries from {past} on"] = (output[:, :past], places)
    for what, (outputs_there, places) in hidden.items():
        (gradient,) = torch.autograd.grad(outputs_there.sum(), query, retain_graph=True)
        assert gradient[places].abs().max() < 1e-9, what  # Fourier transforms round


class Rates(TorchFunctionMode):
    """Notes the rate of every dropout."""

    def __init__(self) -> None:
        self.rates: set[float] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = inspect.signature(func).bind(*args, **kwargs).arguments if func is F.dropout else {}
        if func is F.dropout and given.get("training", True):
            self.rates.add(given["p"])
        if func is F.scaled_dot_product_attention:
            self.rates.add((kwargs or {}).get("dropout_p", 0.0))
        return func(*args, **(kwargs or {}))


@each_mixing_claim
def test_dropout_has_the_rate_asked_for(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern, dropout=0.3)
    query, context = inputs(pattern, 3)
    for training, expected in ((True, {0.3}), (False, set())):
        with Rates() as noted, torch.no_grad():
            attention.train(training)(query, context)
        assert noted.rates - {0.0} == expected


def test_every_mechanism_has_an_oracle() -> None:
    for name in registry.names():
        assert callable(facts(name).oracle), name
