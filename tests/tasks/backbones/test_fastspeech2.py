"""FastSpeech 2: its size in fairseq, rows by themselves, and what predicted durations become."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attentions.base import Pattern
from attentions.registry import factory, load
from tasks.backbones.fastspeech2 import Bins, FastSpeech2, stretch
from tasks.base import AttentionSlots
from tests.tasks.building import settings

TINY = {
    "embed_dim": 8,
    "num_heads": 2,
    "ffn_dim": 12,
    "kernel_size": 3,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "predictor_dim": 8,
    "num_bins": 8,
}


def build(attention: str = "softmax", **changes: Any) -> FastSpeech2:
    """Of 7 symbols and 5 mels, with every weight drawn."""
    torch.manual_seed(0)
    sizes = {"max_source_len": 12, "max_target_len": 40, "pitch_range": (-1.0, 1.0)}
    sizes = {**sizes, "energy_range": (-2.0, 2.0), **TINY, **changes}
    slots = AttentionSlots(factory(load(attention)), Pattern.NONCAUSAL_SELF)
    model = FastSpeech2(slots, 7, 5, **sizes).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def rows() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Three texts of 9, 6 and 2 tokens, and how they were said."""
    generator = torch.Generator().manual_seed(1)
    padding = torch.arange(9) >= torch.tensor([9, 6, 2])[:, None]
    tokens = torch.randint(1, 7, (3, 9), generator=generator).masked_fill(padding, 0)
    durations = torch.randint(0, 4, (3, 9), generator=generator)
    durations[:, 0] = 1
    drawn = torch.randn(2, 3, 9, dtype=torch.float64, generator=generator)
    return (
        tokens,
        padding,
        {
            "durations": durations.masked_fill(padding, 0),
            "pitch": drawn[0].masked_fill(padding, 0.0),
            "energy": drawn[1].masked_fill(padding, 0.0),
        },
    )


def test_the_paper_model_has_the_parameters_of_fairseqs() -> None:
    """`FastSpeech2Model` as it is by default, with 40 symbols, facebookresearch/fairseq@3d262bb."""
    given = settings("text_to_speech_fastspeech2/paper")["model"]
    sizes = {k: v for k, v in given.items() if k in FastSpeech2.__init__.__annotations__}
    assert "predictor_dropout" in sizes
    slots = AttentionSlots(factory(load("softmax")), Pattern.NONCAUSAL_SELF)
    with torch.device("meta"):
        model = FastSpeech2(
            slots,
            40,
            80,
            max_source_len=1024,
            max_target_len=1200,
            pitch_range=(0, 1),
            energy_range=(0, 1),
            **sizes,
        )
    assert sum(p.numel() for p in model.parameters()) == 41_219_413
    assert len(slots.under_test) == 8


@pytest.mark.parametrize("told", [True, False])
def test_a_row_is_said_as_if_alone(told: bool) -> None:
    model = build()
    tokens, padding, said = rows()
    spoken = model(tokens, padding, **(said if told else {}))
    for row, length in enumerate((9, 6, 2)):
        own = {name: values[row : row + 1, :length] for name, values in said.items()}
        alone = model(tokens[row : row + 1, :length], **(own if told else {}))
        assert not alone.padding.any()
        assert_close(spoken.mels[row][~spoken.padding[row]], alone.mels[0])
        for together, single in zip(spoken[2:], alone[2:], strict=True):
            assert_close(together[row, :length], single[0])


def test_stretching_repeats_each_token_for_its_duration() -> None:
    *_, said = rows()
    x = torch.randn(3, 9, 4)
    stretched, padding = stretch(x, said["durations"])
    for row in range(3):
        frames = [x[row, n] for n in range(9) for _ in range(int(said["durations"][row, n]))]
        assert torch.equal(stretched[row][~padding[row]], torch.stack(frames))
        assert padding[row].tolist() == sorted(padding[row].tolist())  # behind the frames
    assert stretched.shape[1] == said["durations"].sum(dim=1).max()
    cut, padding = stretch(x, said["durations"], 2)
    assert torch.equal(cut[padding.logical_not()], stretched[:, :2][~padding])


@pytest.mark.parametrize(
    ("log_duration", "frames"),
    [(3.0, 40), (800.0, 40), (1.0, 18), (0.2, 1), (-5.0, 1), (float("nan"), 1)],
)
def test_predicted_durations_are_rounded_and_cut(log_duration: float, frames: int) -> None:
    """exp(1) - 1 is 1.7, twice nine; a row of nothing has one frame, and 40 are the most."""
    model = build()
    torch.nn.init.zeros_(model.duration_predictor.project.weight)
    torch.nn.init.constant_(model.duration_predictor.project.bias, log_duration)
    spoken = model(rows()[0], None)
    assert (~spoken.padding).sum(dim=1).tolist() == [frames] * 3
    assert spoken.mels.isfinite().all()


def test_a_bin_lies_between_equal_edges() -> None:
    bins = Bins(-1.0, 1.0, 5, 3)  # edges -1, -1/3, 1/3, 1
    values = torch.tensor([[-9.0, -1.0, -0.9, 0.0, 0.5, 1.0, 1.1]])
    expected = bins.embedding.weight[[0, 0, 1, 2, 3, 3, 4]]
    assert torch.equal(bins(values)[0], expected)


def test_too_many_tokens_or_frames_are_refused() -> None:
    model = build(max_target_len=5)
    tokens, padding, said = rows()
    with pytest.raises(ValueError, match="at most 12 positions"):
        model(torch.ones(1, 13, dtype=torch.int64))
    with pytest.raises(ValueError, match="at most 5 positions"):
        model(tokens, padding, **said)


def test_without_attention_a_row_is_seen_through_its_convolutions_only() -> None:
    model = build("none", kernel_size=1, predictor_kernel_size=1)
    tokens, _, said = rows()
    other = tokens.clone()
    other[:, 4:] = 6
    before = said["durations"][:, :4].sum(dim=1).min()
    frames, changed = (model(t, **said).mels[:, :before] for t in (tokens, other))
    assert torch.equal(frames, changed)
