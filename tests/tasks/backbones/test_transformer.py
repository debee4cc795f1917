"""The encoder-decoder: step by step it says what it says in parallel, and padding is invisible."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attentions import registry
from attentions.base import Pattern
from tasks.backbones.transformer import DecoderState, Transformer
from tasks.base import AttentionSlots
from tasks.decoding import Limits, Written, beam_search, greedy_search

VOCAB, SOURCE_LEN, TARGET_LEN = 11, 9, 7
BOS, PAD, EOS = 0, 1, 2
LIMITS = Limits(eos=EOS, pad=PAD, max_len=TARGET_LEN, never=(BOS,))
PLACES = (Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS)


def places() -> list[tuple[str, str]]:
    """Every mechanism in each of its places, and in all three where it claims them."""
    claims = [(name, pattern) for name, pattern in registry.claims() if pattern in PLACES]
    everywhere = [
        (name, "all") for name in registry.names() if all((name, p) in claims for p in PLACES)
    ]
    return [*claims, *everywhere]


each_place = pytest.mark.parametrize(("name", "pattern"), places())
# The searches only call the steps, which are held to the parallel form for every mechanism: what is
# left to see is how they handle a cache that grows, sums, a ring, a matrix and a window of blocks.
SEARCHED = ("softmax", "performer", "local_window", "gated_deltanet", "block_local", "abc")
each_kind_of_state = pytest.mark.parametrize(
    ("name", "pattern"), [place for place in places() if place[0] in SEARCHED]
)


def build(name: str, pattern: Pattern | Literal["all"]) -> Transformer:
    """In float64, so that two orders of the same sums agree to 1e-9."""
    config = registry.load(name)
    if name == "hybrid_layers":  # too few layers for the ratio of its YAML
        config.update({"ratio": 1})
    slots = AttentionSlots(registry.factory(config), pattern)
    model = Transformer(
        slots,
        VOCAB,
        max_source_len=SOURCE_LEN + 3,
        max_target_len=TARGET_LEN,
        embed_dim=24,
        num_heads=3,
        ffn_dim=16,
        num_encoder_layers=2,
        num_decoder_layers=2,
    )
    return model.double().eval()


def draw(batch_size: int, length: int) -> Tensor:
    return torch.randint(3, VOCAB, (batch_size, length))


def sources() -> tuple[Tensor, Tensor]:
    """Four sources of 9, 6, 3 and 1 tokens, and their padding."""
    padding = torch.arange(SOURCE_LEN) >= torch.tensor([9, 6, 3, 1])[:, None]
    return draw(4, SOURCE_LEN).masked_fill(padding, PAD), padding


def begin(model: Transformer, source: Tensor, padding: Tensor) -> tuple[Tensor, DecoderState]:
    prompt = torch.full((len(source), 1), BOS)
    return model.prefill(prompt, model.init_state(source, padding))


@each_place
@pytest.mark.parametrize("prompt_len", [1, 3])
def test_steps_say_what_the_parallel_form_says(
    name: str, pattern: Pattern | Literal["all"], prompt_len: int
) -> None:
    model = build(name, pattern)
    source, padding = sources()
    target = draw(4, TARGET_LEN)
    parallel = model(source, target, padding)
    logits, state = model.prefill(target[:, :prompt_len], model.init_state(source, padding))
    stepwise = [logits]
    for position in range(prompt_len, TARGET_LEN):
        logits, state = model.step(target[:, position], state)
        stepwise.append(logits)
    expected = parallel[:, prompt_len - 1 :]
    assert_close(torch.stack(stepwise, dim=1), expected, rtol=1e-9, atol=1e-9)


@each_kind_of_state
def test_greedy_search_writes_what_rereading_the_prefix_writes(
    name: str, pattern: Pattern | Literal["all"]
) -> None:
    model = build(name, pattern)
    source, padding = sources()
    written = greedy_search(model.step, *begin(model, source, padding), LIMITS)
    for row in range(len(source)):
        prefix = [BOS]
        while len(prefix) <= TARGET_LEN and prefix[-1] != EOS:
            logits = model(source[row : row + 1], torch.tensor([prefix]), padding[row : row + 1])
            logits[..., [PAD, BOS]] = -torch.inf
            prefix.append(int(logits[0, -1].argmax()))
        found = [token for token in written.tokens[row].tolist() if token != PAD]
        assert found == prefix[1:]


def rescore(model: Transformer, source: Tensor, padding: Tensor, written: Written) -> Tensor:
    """The log-probabilities of what was written, read by the parallel form."""
    tokens = written.tokens
    begun = torch.cat([torch.full_like(tokens[:, :1], BOS), tokens[:, :-1]], dim=1)
    log_probs = model(source, begun, padding).log_softmax(-1)
    each = log_probs.gather(2, tokens[:, :, None])[..., 0]
    return each.masked_fill(tokens == PAD, 0.0).sum(dim=1)


@each_kind_of_state
def test_beam_search_hands_each_beam_its_own_state(
    name: str, pattern: Pattern | Literal["all"]
) -> None:
    model = build(name, pattern)
    with torch.no_grad():  # sharper choices, so that beams cross often
        model.to_logits.weight *= 6
    source, padding = sources()
    written = beam_search(
        model.step, *begin(model, source, padding), LIMITS, num_beams=4, length_penalty=0.0
    )
    # The search sums in float32.
    expected = rescore(model, source, padding, written).float()
    assert_close(written.log_probs, expected, rtol=1e-5, atol=1e-5)


@each_place
def test_padding_of_source_and_target_is_invisible(
    name: str, pattern: Pattern | Literal["all"]
) -> None:
    model = build(name, pattern)
    source, padding = sources()
    target = draw(4, TARGET_LEN)
    target_padding = torch.arange(TARGET_LEN) >= torch.tensor([7, 4, 2, 1])[:, None]
    logits = model(source, target, padding, target_padding)
    other_source = torch.where(padding, draw(4, SOURCE_LEN), source)
    other_target = torch.where(target_padding, draw(4, TARGET_LEN), target)
    others = model(other_source, other_target, padding, target_padding)
    assert_close(others[~target_padding], logits[~target_padding], rtol=1e-9, atol=1e-9)
    written = greedy_search(model.step, *begin(model, source, padding), LIMITS)
    again = greedy_search(model.step, *begin(model, other_source, padding), LIMITS)
    assert torch.equal(written.tokens, again.tokens)


@each_place
def test_no_later_target_token_is_seen(name: str, pattern: Pattern | Literal["all"]) -> None:
    model = build(name, pattern)
    source, padding = sources()
    target = draw(4, TARGET_LEN)
    other = torch.cat([target[:, :4], draw(4, TARGET_LEN - 4)], dim=1)
    logits, others = model(source, target, padding), model(source, other, padding)
    assert_close(logits[:, :4], others[:, :4], rtol=1e-9, atol=1e-9)


def test_the_mechanism_stands_in_its_places_only() -> None:
    counts = {Pattern.NONCAUSAL_SELF: 2, Pattern.CAUSAL_SELF: 3, Pattern.CAUSAL_CROSS: 3}
    for pattern, count in counts.items():
        slots = AttentionSlots(registry.factory(registry.load("linear_elu")), pattern)
        Transformer(
            slots,
            VOCAB,
            max_source_len=12,
            max_target_len=7,
            embed_dim=8,
            num_heads=2,
            num_encoder_layers=2,
            num_decoder_layers=3,
        )
        assert [attention.pattern for attention in slots.under_test] == [pattern] * count


def test_too_long_a_sequence_is_named() -> None:
    model = build("softmax", "all")
    with pytest.raises(ValueError, match=r"at most 7 tokens \(max_len\), got 8"):
        model(draw(1, SOURCE_LEN), draw(1, TARGET_LEN + 1))
