"""Transformer-TTS: its size in fairseq, rows by themselves, causality, and saying step by step."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attentions.registry import factory, load
from tasks.backbones.transformer_tts import TransformerTts
from tasks.base import AttentionSlots
from tests.tasks.building import settings

TINY = {
    "embed_dim": 8,
    "num_heads": 2,
    "ffn_dim": 12,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "num_encoder_prenet_layers": 2,
    "prenet_dim": 16,
    "postnet_dim": 8,
    "num_postnet_layers": 3,
    "frames_per_step": 2,
}
STEPS = [8, 5, 1]


def build(attention: str = "softmax", pattern: str = "causal_self", **changes: Any) -> Any:
    """Of 7 symbols and 3 mels, with every weight drawn."""
    torch.manual_seed(0)
    sizes = {"max_source_len": 12, "max_steps": 10, **TINY, **changes}
    slots = AttentionSlots(factory(load(attention)), pattern)  # type: ignore[arg-type]
    model = TransformerTts(slots, 7, 3, **sizes).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def rows() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Texts of 9, 6 and 2 tokens, with 8, 5 and 1 steps; and seeds."""
    generator = torch.Generator().manual_seed(1)
    token_padding = torch.arange(9) >= torch.tensor([9, 6, 2])[:, None]
    tokens = torch.randint(1, 7, (3, 9), generator=generator).masked_fill(token_padding, 0)
    padding = torch.arange(8) >= torch.tensor(STEPS)[:, None]
    frames = torch.randn(3, 8, 6, dtype=torch.float64, generator=generator)
    frames = frames.masked_fill(padding[..., None], 0.0)
    return tokens, frames, token_padding, padding, torch.tensor([5, 6, 7])


def test_the_paper_model_has_the_parameters_of_fairseqs() -> None:
    """`TTSTransformerModel` with CAB's sizes and 40 symbols, facebookresearch/fairseq@3d262bb."""
    given = settings("text_to_speech_transformer/paper")["model"]
    sizes = {k: v for k, v in given.items() if k in TransformerTts.__init__.__annotations__}
    assert "activation_dropout" in sizes
    slots = AttentionSlots(factory(load("softmax")), "all")
    with torch.device("meta"):
        model = TransformerTts(slots, 40, 80, max_source_len=1024, **sizes)
    assert sum(p.numel() for p in model.parameters()) == 54_382_339
    assert len(slots.under_test) == 18


def test_a_row_is_said_as_if_alone() -> None:
    model = build()
    tokens, frames, token_padding, padding, seeds = rows()
    spoken = model(tokens, frames, token_padding, padding, seeds=seeds)
    for row, (length, steps) in enumerate(zip((9, 6, 2), STEPS, strict=True)):
        one = slice(row, row + 1)
        alone = model(tokens[one, :length], frames[one, :steps], seeds=seeds[one])
        for together, single in zip(spoken, alone, strict=True):
            assert_close(together[row, :steps], single[0])


@pytest.mark.parametrize("training", [False, True])
def test_a_later_frame_cannot_change_an_earlier_step(training: bool) -> None:
    model = build().train(training)
    tokens, frames, token_padding, _, seeds = rows()
    other = frames.clone()
    other[:, 4:] *= 9  # the step after frame 4 is the first to see it
    outputs = []
    for given in (frames, other):
        torch.manual_seed(0)  # dropout
        outputs.append(model(tokens, given, token_padding, seeds=None if training else seeds))
    for one, two in zip(*((o.first, o.stop) for o in outputs), strict=True):
        assert torch.equal(one[:, :5], two[:, :5])
        assert not torch.isclose(one[:, 5:], two[:, 5:]).all()
    # What stands in the recording is seen, but one step later.
    assert not torch.isclose(outputs[0].first[:, 5], outputs[1].first[:, 5]).all()


@pytest.mark.parametrize("prompt_len", [0, 3])
@pytest.mark.parametrize(
    ("attention", "pattern"),
    [("softmax", "all"), ("abc", "causal_self"), ("performer", "causal_cross")],
)
def test_steps_equal_the_parallel_form(attention: str, pattern: str, prompt_len: int) -> None:
    model = build(attention, pattern)
    tokens, frames, token_padding, _, seeds = rows()
    spoken = model(tokens, frames, token_padding, seeds=seeds)
    state = model.init_state(tokens, token_padding, seeds=seeds)
    before = torch.cat([torch.zeros_like(frames[:, :1]), frames[:, :-1]], dim=1)
    first, stop = [], []
    if prompt_len:
        said, stops, state = model.prefill(before[:, :prompt_len], state)
        first, stop = [said], [stops]
    for step in range(prompt_len, 8):
        said, stops, state = model.step(before[:, step : step + 1], state)
        first.append(said)
        stop.append(stops)
    assert_close(torch.cat(first, dim=1), spoken.first)
    assert_close(torch.cat(stop, dim=1), spoken.stop)


def test_the_state_of_some_rows_goes_on_as_theirs() -> None:
    model = build()
    tokens, frames, token_padding, _, seeds = rows()
    state = model.init_state(tokens, token_padding, seeds=seeds)
    _, _, state = model.prefill(frames[:, :2], state)
    some = torch.tensor([2, 0])
    picked = state.select(some)
    expected = model.step(frames[:, 2:3], state)[:2]
    for all_, few in zip(expected, model.step(frames[some, 2:3], picked)[:2], strict=True):
        assert_close(few, all_[some])


def test_the_prenet_drops_by_the_row_and_in_evaluation_too() -> None:
    model = build(prenet_dropout=0.3)
    tokens, frames, token_padding, _, seeds = rows()
    same, other = (model(tokens, frames, token_padding, seeds=seeds + k).first for k in (0, 1))
    assert not torch.isclose(same, other).any(dim=-1).any()
    kept = model.prenet.draw(torch.arange(40), 50)
    assert torch.equal(kept[:, :7], model.prenet.draw(torch.arange(40), 7))
    # Of 64,000 draws the share deviates by 0.0018.
    assert kept.double().mean().item() == pytest.approx(0.7, abs=0.008)
    x, expected = frames, model.prenet.draw(seeds, 8)
    for depth, layer in enumerate(model.prenet.layers):
        x = layer(x).clamp(min=0) * expected[:, :, depth] / 0.7
    assert_close(model.prenet(frames, expected), model.prenet.project(x))


def test_what_is_written_is_said_until_it_stops() -> None:
    model = build()
    tokens, _, token_padding, _, seeds = rows()
    for bias in range(-6, 6):  # until some rows stop and some wait for them
        torch.nn.init.constant_(model.to_stop.bias, bias)
        frames, num_steps = model.write(tokens, token_padding, seeds=seeds)
        if len(set(num_steps.tolist())) > 1:
            break
    assert len(set(num_steps.tolist())) > 1
    for row, length in enumerate((9, 6, 2)):
        one, steps = slice(row, row + 1), int(num_steps[row])
        alone, alone_steps = model.write(tokens[one, :length], seeds=seeds[one])
        assert alone_steps.tolist() == [steps]
        assert_close(frames[row, :steps], alone[0])
        # The same, from the parallel form over what was written itself.
        first = model_first(model, tokens[one, :length], seeds[one], steps)
        spoken = model(tokens[one, :length], first, seeds=seeds[one])
        assert_close(spoken.first, first)
        assert_close(spoken.frames, alone)
        over = spoken.stop.sigmoid()[0] > 0.5
        assert not over[:-1].any()
        assert bool(over[-1]) or steps == 10


def model_first(model: Any, tokens: Tensor, seeds: Tensor, steps: int) -> Tensor:
    """The frames before the postnet, each step from a whole pass over those before it."""
    first = torch.zeros(1, steps, 6, dtype=torch.float64)
    for step in range(steps):
        first[:, step] = model(tokens, first, seeds=seeds).first[:, step]
    return first


@pytest.mark.parametrize(("bias", "steps"), [(-99.0, 10), (99.0, 1)])
def test_what_never_stops_is_cut_and_what_stops_at_once_has_one_step(
    bias: float, steps: int
) -> None:
    model = build()
    tokens, _, token_padding, _, seeds = rows()
    torch.nn.init.constant_(model.to_stop.bias, bias)
    frames, num_steps = model.write(tokens, token_padding, seeds=seeds)
    assert num_steps.tolist() == [steps] * 3
    assert frames.shape == (3, steps, 6)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        build(encoder_prenet_kernel_size=4)
    tokens, frames, *_ = rows()
    with pytest.raises(ValueError, match="at most 10 positions"):
        build()(tokens, torch.cat([frames, frames], dim=1))
