"""Spoken texts: what is generated, and LJSpeech from files good and bad."""

import struct
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from attentions.base import Unavailable
from tasks.cab.text_to_speech import alignment, audio, ljspeech, text, textgrid
from tasks.cab.text_to_speech import data as data_module
from tasks.cab.text_to_speech.audio import Spectrum
from tasks.cab.text_to_speech.data import END, TextToSpeechData, Utterances, token_means
from tasks.cab.text_to_speech.generate import MARKS, generate

RATE = 8000
SMALL = {"sample_rate": RATE, "num_mels": 12, "window_len": 128, "hop_len": 80, "max_hz": 4000.0}
SOUNDS = {letter: 300.0 + 450.0 * place for place, letter in enumerate("abcdef")} | {" ": 0.0}
"""What the letters of the written test language sound like, in Hz."""

compiles = pytest.mark.slow
"""For speech, pitch and resampling librosa compiles, at its first use, for half a minute."""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the tests stays in the user's cache, and nothing of it enters them."""
    folder = str(tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", folder)


def generated(**settings: Any) -> TextToSpeechData:
    sizes: dict[str, Any] = {"max_source_len": 13, "max_target_len": 32, "num_train": 64}
    data = TextToSpeechData(**{"source": "generated", "batch_size": 8, **sizes, **settings})
    data.setup()
    return data


@pytest.mark.parametrize("marks", MARKS)
def test_generated_letters_sound_as_the_marks_say(marks: str) -> None:
    """Read again by another hand: by the words of the module, row by row."""
    speech = generate(50, seed=3, marks=marks)
    words = ["<pad>", "</s>", "<unk>", *(f"letter{i}" for i in range(4)), "rest"]
    words += [f"letter{i} has tone{j}" for i in range(4) for j in range(4)]
    words += ["voice0", "voice1"]
    rows = np.split(speech.tokens, speech.num_tokens.cumsum()[:-1])
    mels = np.split(speech.mels, speech.num_frames.cumsum()[:-1])
    heard = set()
    for tokens, frames in zip(rows, mels, strict=True):
        said = [words[token] for token in tokens]
        assert said[1:7:2] == ["rest"] * 3
        *told, end = said[7 + (said[7] == "rest") :]
        assert end == "</s>"
        loudest = frames[1::4]  # the second of the four frames of each token
        assert len(frames) == 4 * (len(said) - 5)
        assert (loudest[1::2] == -8).all()  # the rests
        voice = int(loudest[0, 14] < loudest[0, 17])
        if marks == "voice":
            tones = {f"letter{i}": f"tone{i}" for i in range(4)}
            assert told == [f"voice{voice}"] * 4
        else:
            tones = dict(mark.split(" has ") for mark in told)
            assert sorted(tones) == [f"letter{i}" for i in range(4)]
        for letter, frame in zip(said[:7:2], loudest[::2], strict=True):
            assert frame[:14].argmax() == 2 + 3 * int(tones[letter][4:])
            assert_close(frame[:14].max(), np.float32(0), rtol=0, atol=0.1)
            is_high = frame[14:] > -0.1
            assert is_high.tolist() == [voice == 0] * 3 + [voice == 1] * 3
            heard.add((tones[letter], voice))
    assert len(heard) == 8
    assert {len(tokens) for tokens in rows} == {12, 13}


def test_generated_batches_fit_together() -> None:
    data = generated()
    rows = torch.tensor([5, 0, 63])
    batch = data.train[rows]
    assert batch.rows.tolist() == rows.tolist()
    assert (batch.tokens.dtype, batch.mels.dtype) == (torch.int64, torch.float32)
    assert_close(batch.durations.sum(dim=1), (~batch.mel_padding).sum(dim=1))
    assert torch.equal(batch.tokens == 0, batch.token_padding)
    assert ((batch.tokens == END).sum(dim=1) == 1).all()
    for values in (batch.durations, batch.pitch, batch.energy):
        assert not values[batch.token_padding | (batch.tokens == END)].any()
    assert not batch.mels[batch.mel_padding].any()
    alone = data.train[rows[2:]]
    length = len(alone.mels[0])
    assert_close(alone.mels[0], batch.mels[2, :length], rtol=0, atol=0)
    assert batch.tokens.max() < data.facts["vocab_size"]


def every_row(split: Utterances) -> torch.Tensor:
    batch = split[torch.arange(len(split))]
    return batch.mels[~batch.mel_padding]


def test_generated_rows_are_normalised_by_the_training_rows_and_seeded() -> None:
    data, same, other = generated(), generated(), generated(seed=1)
    mels = every_row(data.train)
    assert_close(mels.mean(dim=0), torch.zeros(20), rtol=0, atol=1e-4)
    assert_close(mels.std(dim=0, correction=0), torch.ones(20), rtol=0, atol=1e-4)
    assert every_row(data.test).mean(dim=0).abs().max() > 1e-3
    assert torch.equal(mels, every_row(same.train))
    assert not np.array_equal(data.train.tokens.values, other.train.tokens.values)
    assert np.array_equal(data.test.tokens.values, other.test.tokens.values)
    assert not np.array_equal(data.test.tokens.values, data.validation.tokens.values)


@compiles
def test_the_mean_frame_is_scored_as_a_model_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "EVAL_ROWS", 8)
    data = generated()
    (scores,) = data.trivial_scores().values()
    assert_close(scores["mel_loss"], every_row(data.test).double().abs().mean().item())
    assert scores["mcd"] > scores["msd"] > 1
    assert scores["mcd_path"] <= scores["mcd"]


def test_what_generated_texts_do_not_fit_into_is_refused() -> None:
    with pytest.raises(ValueError, match="up to 13 tokens and 32 frames, got max_source_len 12"):
        generated(max_source_len=12)


def speak(letters: str, *, frames: int = 6, rate: int = RATE) -> np.ndarray:
    """Each letter as a tone of so many frames of 10 ms."""
    times = np.arange(frames * rate // 100) / rate
    sounds = [np.sin(2 * np.pi * SOUNDS[letter] * times) for letter in letters]
    hiss = np.random.default_rng(0).standard_normal(len(letters) * len(times))
    return np.concatenate(sounds) * 0.5 + 1e-3 * hiss


def write_wav(file: Path, samples: np.ndarray, rate: int = RATE) -> None:
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((samples * 32767).astype("<i2").tobytes())


TRANSCRIPTS = [f"{first}bc {second}ef" for first in "acbd" for second in "edabc"]


def write_ljspeech(folder: Path, **lines: str) -> Path:
    """Twenty clips, some lines of the metadata exchanged by others."""
    (folder / "wavs").mkdir()
    rows = []
    for number, transcript in enumerate(TRANSCRIPTS):
        name = f"LJ{1 + number % 5:03d}-{number:04d}"
        write_wav(folder / "wavs" / f"{name}.wav", speak(transcript, frames=4 + number % 4))
        rows.append(lines.get(f"line{number + 1}", f"{name}|{transcript.upper()}|{transcript}"))
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def recorded(folder: Path, **settings: Any) -> TextToSpeechData:
    sizes: dict[str, Any] = {"max_source_len": 50, "max_target_len": 200, "spectrum": SMALL}
    data = TextToSpeechData(**{"source": str(folder), "batch_size": 4, **sizes, **settings})
    data.setup()
    return data


@compiles
def test_ljspeech_is_read_with_its_official_split(tmp_path: Path) -> None:
    data = recorded(write_ljspeech(tmp_path))
    assert data.dataset == "LJSpeech-sample"
    assert data.labels == {"data_split": "official"}
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 4, 8]
    symbols = sorted({letter for n, t in enumerate(TRANSCRIPTS) if n % 5 > 2 for letter in t})
    assert data.facts["vocab_size"] == 3 + len(symbols)
    row = data.train[torch.tensor([0])]  # the fourth clip
    assert row.tokens[0, :-1].tolist() == [3 + symbols.index(s) for s in TRANSCRIPTS[3]]
    spectrum = Spectrum(**SMALL)
    samples = torch.from_numpy(speak(TRANSCRIPTS[3], frames=7)).float()
    expected = (spectrum.log_mel(samples) - data.train.mean) / data.train.deviation
    assert_close(row.mels[0], expected, rtol=0, atol=0.2)  # of 16 bits, near silence
    train = every_row(data.train)
    assert_close(train.mean(dim=0), torch.zeros(12), rtol=0, atol=1e-4)
    assert_close(train.std(dim=0, correction=0), torch.ones(12), rtol=0, atol=1e-3)
    low, high = data.facts["pitch_range"]
    assert low == 0
    assert 4 < high < 7


@compiles
def test_durations_learnt_are_those_spoken(tmp_path: Path) -> None:
    data = recorded(write_ljspeech(tmp_path))
    errors = []
    for part, numbers in ((data.train, (3, 4)), (data.test, (0, 1))):
        clips = [n for n in range(20) if n % 5 in numbers]
        batch = part[torch.arange(len(part))]
        assert_close(batch.durations.sum(dim=1), (~batch.mel_padding).sum(dim=1))
        for durations, clip in zip(batch.durations, clips, strict=True):
            spoken = np.arange(1, 7) * (4 + clip % 4)
            errors += np.abs(durations[:6].cumsum(dim=0).numpy() - spoken).tolist()
    assert np.mean(errors) < 1  # frames


@compiles
def test_what_is_prepared_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = recorded(write_ljspeech(tmp_path))

    def fail(*_: object) -> None:
        raise AssertionError("made twice")

    monkeypatch.setattr(ljspeech, "prepare_clip", fail)
    monkeypatch.setattr(alignment, "learn", fail)
    rows = torch.arange(3)
    again = recorded(tmp_path).train[rows]
    for before, after in zip(first.train[rows], again, strict=True):
        assert torch.equal(before, after)


def test_without_durations_nothing_is_made_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ljspeech, "pitch", None)
    monkeypatch.setattr(ljspeech, "aligned", None)
    batch = recorded(write_ljspeech(tmp_path), needs_durations=False).train[torch.arange(2)]
    assert not batch.durations.any()
    assert not batch.pitch.any()
    assert batch.mels.any()


@compiles
def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path) -> None:
    bad = {
        "line1": "LJ001-0000|one field is missing",
        "line2": "LJ002-0001|  |  ",
        "line3": "LJ009-9999|abc|abc",
        "line4": "LJ004-0003|abc|" + "abc" * 20,
    }
    write_ljspeech(tmp_path, **bad)
    (tmp_path / "wavs" / "LJ005-0004.wav").write_bytes(b"RIFF, but no sound")
    write_wav(tmp_path / "wavs" / "LJ001-0005.wav", speak("abc" * 20))
    write_wav(tmp_path / "wavs" / "LJ002-0006.wav", speak("a")[:60])
    write_wav(tmp_path / "wavs" / "LJ003-0007.wav", speak("ab")[:400])
    with pytest.warns(UserWarning, match=r"LJSpeech: 8 of 20 left out: .*line 1: 2 fields, not 3"):
        data = recorded(tmp_path)
    assert sum(len(split) for split in (data.train, data.validation, data.test)) == 12
    with pytest.warns(UserWarning, match="left out"):
        prepared = ljspeech.read(
            tmp_path,
            ljspeech.Options(Spectrum(**SMALL), "characters", True, 50, 200),
            textgrids=None,
        )
    reasons = "\n".join(prepared.left_out)
    for reason in (
        "LJ002-0001.wav: the transcript of LJ002-0001 is empty",
        "LJ009-9999.wav: No such file",
        "LJ004-0003.wav: its text has 61 tokens, max_source_len is 50",
        "LJ005-0004.wav: Error opening",
        "LJ001-0005.wav: it has 361 frames, max_target_len is 200",
        "LJ002-0006.wav: 60 samples are no frame",
        "LJ003-0007.wav: 6 frames are fewer than its 7 tokens",
    ):
        assert reason in reasons


def test_nothing_that_can_be_used_is_an_error(tmp_path: Path) -> None:
    write_ljspeech(tmp_path)
    with pytest.raises(ValueError, match=r"none of 20 items can be used: .*max_target_len is 3"):
        recorded(tmp_path, max_target_len=3, needs_durations=False)


@compiles
def test_recordings_of_another_rate_are_resampled_and_it_is_said_once(tmp_path: Path) -> None:
    write_ljspeech(tmp_path)
    twice = speak(TRANSCRIPTS[3], frames=7, rate=2 * RATE)
    before = recorded(tmp_path).train[torch.tensor([0])].mels
    write_wav(tmp_path / "wavs" / "LJ004-0003.wav", twice, rate=2 * RATE)
    with pytest.warns(
        UserWarning, match="1 of 20 recordings were resampled from 16,000 Hz"
    ) as told:
        after = recorded(tmp_path).train[torch.tensor([0])].mels
    assert len(told) == 1
    assert after.shape == before.shape
    assert (after - before).abs().median() < 0.3


GRID = """File type = "ooTextFile"
Object class = "TextGrid"
xmin = 0
xmax = 0.3
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        intervals: size = 1
        intervals [1]:
            xmin = 0.05
            xmax = 0.25
            text = "ab"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        intervals: size = 5
"""
PHONES = [
    (0.0, 0.05, ""),
    (0.05, 0.114, "AH0"),
    (0.114, 0.14, ""),
    (0.14, 0.2, "B"),
    (0.2, 0.3, "sil"),
]


def write_grid(file: Path, phones: list[tuple[float, float, str]] = PHONES) -> Path:
    intervals = (
        f'intervals [{i}]:\n xmin = {begin}\n xmax = {end}\n text = "{phone}"\n'
        for i, (begin, end, phone) in enumerate(phones, start=1)
    )
    file.write_text(GRID + "".join(intervals))
    return file


@compiles
def test_phonemes_and_durations_come_from_textgrids(tmp_path: Path) -> None:
    write_ljspeech(tmp_path)
    for wav in (tmp_path / "wavs").iterdir():
        write_grid(tmp_path / f"{wav.stem}.TextGrid")
    data = recorded(tmp_path, durations=str(tmp_path))
    batch = data.train[torch.tensor([0])]
    assert batch.tokens.tolist() == [[3, 5, 4, END]]  # AH0, a pause, B: as they sort
    assert batch.durations.tolist() == [[6, 3, 6, 0]]  # frames of 10 ms, as numpy rounds
    assert batch.mels.shape == (1, 15, 12)
    first = Spectrum(**SMALL).log_mel(
        torch.from_numpy(speak(TRANSCRIPTS[3], frames=7)[400:1600]).float()
    )
    expected = (first - data.train.mean) / data.train.deviation
    assert_close(batch.mels[0], expected[:15], rtol=0, atol=0.2)  # of 16 bits, near silence


def test_a_malformed_textgrid_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "a.TextGrid"
    assert [phone.symbol for phone in textgrid.read(write_grid(file))] == ["AH0", "sp", "B"]
    for content, message in (
        (GRID.replace("phones", "letters"), "there is no tier 'phones'"),
        (GRID, "nothing is spoken"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            textgrid.read(file)
    write_grid(file, [PHONES[1], PHONES[3]])
    with pytest.raises(ValueError, match=r"'AH0' ends at 0.114 s, but what follows begins at 0.14"):
        textgrid.read(file)


def test_token_means_leave_out_tokens_without_frames() -> None:
    means = token_means(np.array([1.0, 3.0, 5.0]), np.array([0, 2, 0, 1, 0]))
    assert means.tolist() == [0, 2, 0, 5, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "hub"}, "no data set on the hub"),
        ({"text": "letters"}, "text must be one of characters, phonemes, got 'letters'"),
        ({"marks": "pitch"}, "marks must be one of voice, tones, got 'pitch'"),
        ({"split": "half"}, "split must be one of official, ratio, auto, got 'half'"),
        ({"max_target_len": 0}, "max_target_len must be positive"),
    ],
)
def test_settings_that_are_none_are_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generated(**changes)


def test_what_is_missing_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"metadata.csv: there is no such file"):
        recorded(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder of TextGrids"):
        recorded(tmp_path, durations=str(tmp_path / "grids"))
    monkeypatch.setattr(text, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="pip install phonemizer; apt install espeak-ng"):
        recorded(tmp_path, text="phonemes")
    monkeypatch.setattr(audio, "find_spec", lambda _: None)
    for source in (str(tmp_path), "generated"):
        with pytest.raises(Unavailable, match=r"pip install 'attnbench\[speech\]'"):
            recorded(tmp_path, source=source)


def test_a_part_of_the_data_set_is_split_by_ratio() -> None:
    names = [f"LJ001-{number:04d}" for number in range(24)]
    chosen, parts = ljspeech.split_of(names, "auto")
    assert chosen == "ratio"
    assert [len(part) for part in parts.values()] == [20, 2, 2]
    with pytest.raises(ValueError, match=r"no clips for train and validation; .*split=ratio"):
        ljspeech.split_of(names, "official")
    with pytest.raises(ValueError, match="2 clips are too few for three splits"):
        ljspeech.split_of(names[:2], "ratio")


def test_float_wavs_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    write_ljspeech(tmp_path)
    samples = np.full(4000, np.nan, dtype="<f4").tobytes()
    header = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 3, 1, RATE, 4 * RATE, 4, 32)
    body = header + b"data" + struct.pack("<I", len(samples)) + samples
    wav = tmp_path / "wavs" / "LJ001-0000.wav"
    wav.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    with pytest.warns(UserWarning, match=r"LJ001-0000.wav: some samples are no numbers"):
        recorded(tmp_path, needs_durations=False)
