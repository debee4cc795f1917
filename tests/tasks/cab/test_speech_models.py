"""Text to speech: losses and scores by hand, what cannot be said, and the places of attention."""

import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from attentions.base import Pattern
from runners.records import RecordStore
from tasks.cab.text_to_speech import task as task_module
from tasks.cab.text_to_speech.data import Batch, TextToSpeechData
from tasks.cab.text_to_speech.distortion import Distortions, distortions
from tasks.cab.text_to_speech.task import HEARD
from tasks.cab.text_to_speech.transformer import TransformerSpeech, in_steps
from tests.runners.test_train import attnbench
from tests.tasks.building import build_data, build_model

FAST, STEPWISE = "text_to_speech_fastspeech2/tiny", "text_to_speech_transformer/tiny"
each_backbone = pytest.mark.parametrize("name", [FAST, STEPWISE])


@pytest.fixture(scope="module")
def data() -> TextToSpeechData:
    return build_data(FAST, num_train=64)


def build(name: str, data: TextToSpeechData, attention: str = "softmax", **changes: Any) -> Any:
    """In evaluation, its logs unheard."""
    torch.manual_seed(0)
    model = build_model(name, data, attention, Pattern.NONCAUSAL_SELF, **changes).eval()
    model.log = lambda *args, **kwargs: None
    return model


def some(data: TextToSpeechData) -> Batch:
    """Four test rows of different lengths."""
    batch = data.test[torch.arange(4)]
    assert batch.token_padding.any()
    assert batch.mel_padding.any()
    return batch


def row_of(batch: Batch, row: int) -> Batch:
    """One row without its padding."""
    num_tokens = int((~batch.token_padding[row]).sum())
    num_frames = int((~batch.mel_padding[row]).sum())
    cut = [
        part[row : row + 1, : num_frames if name.startswith("mel") else num_tokens]
        for name, part in zip(Batch._fields[:-1], batch[:-1], strict=True)
    ]
    return Batch._make([*cut, batch.rows[row : row + 1]])


def test_fastspeech2_is_trained_on_frames_durations_pitch_and_energy(
    data: TextToSpeechData,
) -> None:
    model, batch = build(FAST, data), some(data)
    frames, errors = [], []
    for row in range(4):
        one = row_of(batch, row)
        said = model.model(one.tokens, durations=one.durations, pitch=one.pitch, energy=one.energy)
        frames.append((said.mels - one.mels).abs().flatten())
        logs = [math.log(1 + frames) for frames in one.durations[0].tolist()]
        expected = torch.stack([torch.tensor(logs), one.pitch[0], one.energy[0]])
        predicted = torch.stack([said.log_durations[0], said.pitch[0], said.energy[0]])
        errors.append((predicted - expected) ** 2)
    loss, count = model.loss(batch)
    assert count == 4
    expected = torch.cat(frames).mean() + torch.cat(errors, dim=1).mean(dim=1).sum()
    assert_close(loss, expected, rtol=1e-4, atol=1e-5)  # float32
    model.test_step(batch, 0)
    assert_close(model.mel_loss.compute().float(), torch.cat(frames).mean(), rtol=1e-4, atol=1e-5)


def test_transformer_tts_is_trained_on_frames_before_and_after_the_postnet_and_on_the_stop(
    data: TextToSpeechData,
) -> None:
    model, batch = build(STEPWISE, data, frames_per_step=3), some(data)
    first, last, stops, is_last = [], [], [], []
    for row in range(4):
        one = row_of(batch, row)
        steps = one.mels.shape[1] // 3  # the frames behind the last whole step are not heard
        recorded = one.mels[:, : 3 * steps].reshape(1, steps, -1)
        said = model.model(one.tokens, recorded, seeds=one.rows)
        first.append((said.first - recorded).flatten())
        last.append((said.frames - recorded).flatten())
        stops.append(said.stop[0])
        is_last.append([0.0] * (steps - 1) + [1.0])
    probability = torch.cat(stops).double().sigmoid()
    end = torch.tensor([value for row in is_last for value in row])
    stop = -(5 * end * probability.log() + (1 - end) * (1 - probability).log()).mean()
    expected = stop
    for errors in map(torch.cat, (first, last)):
        expected = expected + errors.abs().mean() + (errors**2).mean()
    loss, count = model.loss(batch)
    assert count == 4
    assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)  # float32
    model.test_step(batch, 0)
    after = torch.cat(last).abs().mean()
    assert_close(model.mel_loss.compute().float(), after, rtol=1e-4, atol=1e-5)


def test_recordings_are_cut_to_whole_steps(data: TextToSpeechData) -> None:
    mels = torch.arange(1.0, 2 * 11 + 1).reshape(2, 11, 1)
    padding = torch.arange(11) >= torch.tensor([11, 2])[:, None]
    batch = some(data)._replace(mels=mels.masked_fill(padding[..., None], 0.0), mel_padding=padding)
    steps, step_padding = in_steps(batch, 4)
    assert steps[0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert steps[1].tolist() == [[12, 13, 0, 0], [0, 0, 0, 0]]  # shorter than a step: one
    assert step_padding.tolist() == [[False, False], [False, True]]
    assert in_steps(batch, 16)[0].shape == (2, 1, 16)


@each_backbone
def test_what_is_heard_does_not_depend_on_the_batches(name: str, data: TextToSpeechData) -> None:
    model, batch = build(name, data), some(data)
    scores = []
    for parts in ([batch], [row_of(batch, row) for row in range(4)]):
        model.on_predict_epoch_start()
        for index, part in enumerate(parts):
            model.predict_step(part, index)
        scores.append([m["value"] for m in model.measure()])
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)  # float32, through 32 iterations


def test_distortions_are_divided_by_frames_and_by_the_path(
    data: TextToSpeechData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = build(FAST, data), some(data)
    told = iter([Distortions(6.0, 8.0, 4, 5, 3, 2), Distortions(1.0, 2.0, 1, 1, 1, 9)] * 2)
    monkeypatch.setattr(task_module, "distortions", lambda *_: next(told))
    said = [torch.zeros(n, 20) for n in (24, 30, 20, 28)]
    monkeypatch.setattr(model, "synthesise", lambda _: said)
    model.predict_step(batch, 0)
    recorded = [len(mels) for mels in model.recorded(batch)]
    error = sum(abs(len(s) - r) for s, r in zip(said, recorded, strict=True)) / sum(recorded)
    assert error > 0
    expected = [14 / 8, 20 / 8, 14 / 10, 20 / 12, error]
    assert {m["metric"]: m["value"] for m in model.measure()} == pytest.approx(
        dict(zip(HEARD, expected, strict=True))
    )


@each_backbone
def test_a_perfect_model_is_as_far_as_two_draws_of_the_vocoder(
    name: str, data: TextToSpeechData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = build(name, data), some(data)
    monkeypatch.setattr(model, "synthesise", model.recorded)
    model.predict_step(batch, 0)
    costs, frames = 0.0, 0
    for row, mels in zip(batch.rows.tolist(), model.recorded(batch), strict=True):
        draws = [model.vocoder.waveform(mels, seed=2 * row + k) for k in (0, 1)]
        found = distortions(draws[0], draws[1], model.vocoder.sample_rate)
        costs, frames = costs + found.mcd, frames + found.synthesised_frames
    heard = {m["metric"]: m["value"] for m in model.measure()}
    assert heard["mcd"] == pytest.approx(costs / frames)
    assert heard["duration_error"] == 0.0


@each_backbone
def test_what_is_not_finite_stays_so(
    name: str, data: TextToSpeechData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = build(name, data), some(data)
    said = model.synthesise(batch)
    said[1] = said[1] * math.nan
    monkeypatch.setattr(model, "synthesise", lambda _: said)
    model.predict_step(batch, 0)
    heard = {m["metric"]: m["value"] for m in model.measure()}
    assert [name for name in HEARD if math.isnan(heard[name])] == list(HEARD[:4])
    assert len(model.samples) == 3  # of those that can be heard


@pytest.mark.parametrize(
    ("name", "part", "value", "frames"),
    [
        (FAST, "duration_predictor.project", -9.0, 1),
        (FAST, "duration_predictor.project", 9.0, 32),
        (STEPWISE, "to_stop", -99.0, 48),
        (STEPWISE, "to_stop", 99.0, 4),
    ],
)
def test_nothing_said_and_no_end_are_scored(
    name: str, part: str, value: float, frames: int, data: TextToSpeechData
) -> None:
    model, batch = build(name, data), some(data)
    head = model.model.get_submodule(part)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(head.bias, value)
    assert [len(mels) for mels in model.synthesise(batch)] == [frames] * 4
    model.predict_step(batch, 0)
    heard = {m["metric"]: m["value"] for m in model.measure()}
    assert all(map(math.isfinite, heard.values()))
    recorded = [len(mels) for mels in model.recorded(batch)]
    too_much = sum(abs(frames - length) for length in recorded)
    assert heard["duration_error"] == pytest.approx(too_much / sum(recorded))


@each_backbone
@pytest.mark.parametrize("speaks", [False, True])
def test_validation_listens_if_asked_to(speaks: bool, name: str, data: TextToSpeechData) -> None:
    model, logged = build(name, data, speaks_in_validation=speaks), []
    model.log = lambda name, *_, **__: logged.append(name)
    model.validation_step(some(data), 0)
    assert logged == ["mel_loss", *(HEARD if speaks else ())]


@each_backbone
def test_the_first_rows_are_written_to_be_listened_to(
    name: str, data: TextToSpeechData, tmp_path: Path
) -> None:
    model, batch = build(name, data), some(data)
    for index in range(2):
        model.predict_step(batch, index)
    model.write_samples(tmp_path)
    kinds = ("reference", "synthesised")
    names = [f"{row:05d}-{kind}.wav" for row in range(3) for kind in kinds]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with wave.open(str(tmp_path / names[2])) as file:
        assert (file.getframerate(), file.getnchannels()) == (4000, 1)
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2") / 32767
    expected = model.vocoder.waveform(model.recorded(batch)[1], seed=2)
    assert np.abs(samples - expected.clip(-1, 1)).max() < 1 / 32767


@each_backbone
def test_the_learning_rate_warms_up_and_falls_with_the_root(
    name: str, data: TextToSpeechData
) -> None:
    configured = build(name, data, lr=0.5, warmup_steps=4).configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(16):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert rates[15] == pytest.approx(0.25)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_what_is_said_may_be_as_long_as_any_recording(data: TextToSpeechData) -> None:
    with pytest.raises(ValueError, match="max_steps must be at least 8, for recordings of 32"):
        build(STEPWISE, data, max_steps=7)


def test_training_draws_what_the_prenet_drops_anew(data: TextToSpeechData) -> None:
    model, batch = build(STEPWISE, data, prenet_dropout=0.5), some(data)
    assert model.loss(batch)[0] == model.loss(batch)[0]
    model.train()
    assert model.loss(batch)[0] != model.loss(batch)[0]


def crop(batch: Batch, num_tokens: int) -> Batch:
    """The beginning of each row, as far as its first tokens last."""
    durations = batch.durations[:, :num_tokens]
    num_frames = durations.sum(dim=1)
    padding = torch.arange(int(num_frames.max())) >= num_frames[:, None]
    mels = batch.mels[:, : padding.shape[1]].masked_fill(padding[..., None], 0.0)
    pitch, energy = (values[:, :num_tokens] for values in (batch.pitch, batch.energy))
    tokens, token_padding = (x[:, :num_tokens] for x in (batch.tokens, batch.token_padding))
    return Batch(tokens, token_padding, mels, padding, durations, pitch, energy, batch.rows)


@pytest.mark.slow  # finds out which frames belong to which token
def test_one_batch_of_real_speech_is_learned_by_heart(real_data: Path, tmp_path: Path) -> None:
    source = str(real_data / "ljspeech")
    rows = build_data(
        FAST, source=source, max_source_len=400, max_target_len=1200, cache_dir=str(tmp_path)
    )
    batch = crop(rows.train[torch.arange(2)], 5)
    cases: tuple[tuple[str, int, dict[str, Any]], ...] = (
        (FAST, 160, {"kernel_size": 9}),
        (STEPWISE, 110, {"max_steps": 1200, "ffn_dim": 64, "postnet_dim": 128}),
    )
    for name, num_steps, changes in cases:
        model = build(name, rows, **changes).train()
        errors, count = model.mel_errors(batch)
        assert errors / count > 0.5
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_steps)
        for _ in range(num_steps):
            loss, _ = model.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        errors, count = model.mel_errors(batch)
        assert errors / count < 0.1
        assert model.loss(batch)[0] < 0.2  # with all that is predicted


SMALL = (
    "task=text_to_speech_transformer/tiny",
    "pattern=causal_self",
    "device=cpu",
    "task.data.num_train=96",
    "task.data.eval_batch_size=4",
    "task.model.speaks_in_validation=true",
    "task.fit.monitor=mcd",
    "trainer.max_epochs=3",
    "+trainer.limit_val_batches=1",
    "+trainer.limit_test_batches=1",
    "+trainer.limit_predict_batches=1",
)


@pytest.mark.slow  # trains three times
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("runners.train.add_step_times", lambda *_: None)
    monkeypatch.setattr("tasks.cab.text_to_speech.data.EVAL_ROWS", 8)
    calls, real_loss = 0, TransformerSpeech.loss

    def loss(self: TransformerSpeech, batch: Batch) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3 * 3 + 7:  # the second run, in its third epoch
            raise RuntimeError("stopped")
        return real_loss(self, batch)

    monkeypatch.setattr(TransformerSpeech, "loss", loss)

    def scores(folder: str) -> list[Any]:
        attnbench(monkeypatch, "train", *SMALL, f"run.results={tmp_path / folder}")
        (path,) = (tmp_path / folder / "train" / "runs").glob("*.json")
        record = RecordStore(tmp_path / folder / "train").read(path.stem)
        assert record is not None
        rows = [m for m in record.measurements if m.metric in TransformerSpeech.directions]
        return [(m.metric, m.split, m.step, m.value) for m in rows]

    whole, broken, resumed = scores("whole"), scores("broken"), scores("broken")
    assert {split for _, split, _, _ in whole} == {"validation", "test"}
    assert [row for row in broken if row[1] == "test"] == []
    assert resumed == whole
    assert calls == 3 * 3 + 7 + 3
