"""Texts and how they are spoken, as log-mel frames: LJSpeech, or generated.

Source: fairseq's `examples/speech_synthesis`; recordings are read by `.ljspeech`, what is generated
`.generate` says.
Departs from CAB: symbols, mean, deviation and the ranges of pitch and energy are those of the
training rows; fairseq takes the last four of all rows. Texts are characters, with durations of
`.alignment`, unless phonemes are asked for; CAB has Montreal's phonemes and durations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks.cab.text_to_speech import generate as generated
from tasks.cab.text_to_speech import ljspeech
from tasks.cab.text_to_speech.audio import Spectrum, Vocoder, check_librosa
from tasks.cab.text_to_speech.distortion import distortions
from tasks.cab.text_to_speech.text import TEXTS
from tasks.data import TEST_SEED, VALIDATION_SEED, TaskData, check_counts
from tasks.ragged import places

PAD, END, UNKNOWN = range(3)
"""The numbers of padding, of `</s>`, and of a symbol that no training text has."""
EVAL_ROWS = 128
HEARD_ROWS = 8
"""Rows that a rule is listened to on."""
AT_ONCE = 64
"""Rows that a rule is scored on together."""


class Batch(NamedTuple):
    """Texts with the frames of their speech.

    Attributes:
        tokens: int64 (B, N), each text ending with `</s>`; 0 is padding.
        token_padding: Bool (B, N), True for padding.
        mels: float32 (B, T, F), log-mels, each bin normalised by the mean and deviation of the
            training rows; 0 where there is padding.
        mel_padding: Bool (B, T), True for padding.
        durations: int64 (B, N), how many frames each token has: those of a row sum to its frames.
            `</s>`, padding and marks that take no time have none.
        pitch: float32 (B, N), log(1 + Hz), the mean of each token's frames; 0 where it has none.
        energy: float32 (B, N), log(1 + magnitude), likewise.
        rows: int64 (B,), their numbers in the split.
    """

    tokens: Tensor
    token_padding: Tensor
    mels: Tensor
    mel_padding: Tensor
    durations: Tensor
    pitch: Tensor
    energy: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Ragged:
    """Items of different lengths, end to end.

    Attributes:
        values: (sum of lengths, ...).
        ends: Where each item ends, (items,).
    """

    values: np.ndarray
    ends: np.ndarray

    def padded(self, items: np.ndarray) -> tuple[Tensor, Tensor]:
        """The given items (B, longest, ...), 0 where padding; and bool (B, longest), where."""
        found, padding = places(torch.from_numpy(self.ends), torch.from_numpy(items))
        values = torch.from_numpy(self.values[found.numpy()])
        values[padding] = 0
        return values, padding


@dataclass(frozen=True)
class Utterances:
    """The rows of one split.

    Attributes:
        tokens: Of all items, int64.
        mels: Of all items, not normalised, float32 (frames, F).
        durations: Of each token, int64 (tokens,).
        pitch: float32 (tokens,).
        energy: float32 (tokens,).
        items: Which items are the rows, int64 (rows,).
        mean: Of the frames of the training rows, float32 (F,).
        deviation: Likewise.
    """

    tokens: Ragged
    mels: Ragged
    durations: np.ndarray
    pitch: np.ndarray
    energy: np.ndarray
    items: np.ndarray
    mean: Tensor
    deviation: Tensor

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: Tensor) -> Batch:
        items = self.items[rows.numpy()]
        tokens, token_padding = self.tokens.padded(items)
        mels, mel_padding = self.mels.padded(items)
        mels = ((mels - self.mean) / self.deviation).masked_fill(mel_padding[..., None], 0.0)
        durations, pitch, energy = (
            replace(self.tokens, values=values).padded(items)[0]
            for values in (self.durations, self.pitch, self.energy)
        )
        return Batch(
            tokens, token_padding, mels, mel_padding, durations, pitch, energy, rows.clone()
        )


class TextToSpeechData(TaskData):
    """Splits of spoken texts.

    Args:
        source: "generated", or a folder with LJSpeech.
        max_source_len: Texts with more tokens are left out; their `</s>` counts.
        max_target_len: Recordings with more frames are left out.
        text: "characters", or "phonemes" of espeak-ng; TextGrids have their own.
        durations: "alignment", or a folder of TextGrids, whose phonemes are then the text.
        needs_durations: Whether the model does; if not, recordings get no durations, pitch and
            energy: they are 0.
        split: Of the recordings, see `tasks.cab.text_to_speech.ljspeech.split_of`.
        spectrum: What differs from CAB's `tasks.cab.text_to_speech.audio.Spectrum`.
        num_iterations: Of the vocoder.
        num_train: Generated training rows.
        marks: What generated texts tell, see `tasks.cab.text_to_speech.generate`.
        cache_dir: Where prepared recordings are kept; see `tasks.cache.cache_folder`.
        **loading: See `TaskData`.

    Raises:
        ValueError: If a number is not positive, or a name unknown.
    """

    train: Utterances
    validation: Utterances
    test: Utterances

    def __init__(
        self,
        *,
        source: str,
        max_source_len: int,
        max_target_len: int,
        text: str = "characters",
        durations: str = "alignment",
        needs_durations: bool = True,
        split: str = "auto",
        spectrum: Mapping[str, Any] | None = None,
        num_iterations: int = 32,
        num_train: int = 4096,
        marks: str = "voice",
        cache_dir: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_counts(
            max_source_len=max_source_len,
            max_target_len=max_target_len,
            num_iterations=num_iterations,
            num_train=num_train,
        )
        if source == "hub":
            raise ValueError(
                "text_to_speech has no data set on the hub; give the path of a folder with "
                "LJSpeech, from keithito.com/LJ-Speech-Dataset"
            )
        if text not in TEXTS:
            raise ValueError(f"text must be one of {', '.join(TEXTS)}, got {text!r}")
        if marks not in generated.MARKS:
            raise ValueError(f"marks must be one of {', '.join(generated.MARKS)}, got {marks!r}")
        if split not in ljspeech.SPLITS:
            raise ValueError(f"split must be one of {', '.join(ljspeech.SPLITS)}, got {split!r}")
        self.source = source
        self.max_source_len = max_source_len
        self.max_target_len = max_target_len
        self.text = text
        self.textgrids = None if durations == "alignment" else Path(durations)
        self.needs_durations = needs_durations
        self.split = split
        is_generated = source == "generated"
        self.spectrum = generated.SPECTRUM if is_generated else Spectrum(**(spectrum or {}))
        self.num_iterations = num_iterations
        self.num_train = num_train
        self.marks = marks
        self.cache_dir = cache_dir
        self.vocab_size = 0
        self.is_complete = False

    @property
    def dataset(self) -> str:
        """LJSpeech, marked where it is only a part; or what is generated."""
        if self.source == "generated":
            return "speech-synthetic"
        return ljspeech.NAME if self.is_complete else f"{ljspeech.NAME}-sample"

    @property
    def labels(self) -> dict[str, str]:
        """How the recordings were split, where there are any."""
        return {} if self.source == "generated" else {"data_split": self.split}

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes, the ranges of pitch and energy, and what makes speech of frames."""
        train = self.train
        return {
            "vocab_size": self.vocab_size,
            "num_mels": self.spectrum.num_mels,
            "max_source_len": self.max_source_len,
            "max_target_len": self.max_target_len,
            "pitch_range": self._range(train.pitch),
            "energy_range": self._range(train.energy),
            "vocoder": Vocoder(self.spectrum, train.mean, train.deviation, self.num_iterations),
        }

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """What the mean training frame reaches, spoken as long as the recording is.

        The distortions, each of which takes as long as a model's, are those of the first rows of a
        split as short as the generated one; of a longer one there are none.
        """
        frames, errors = 0, 0.0
        for rows in torch.arange(len(self.test)).split(AT_ONCE):
            batch = self.test[rows]  # the mean frame is 0, and so is padding
            errors += batch.mels.double().abs().sum().item()
            frames += int((~batch.mel_padding).sum())
        scores = {"mel_loss": errors / (frames * self.spectrum.num_mels)}
        if len(self.test) <= EVAL_ROWS:
            scores |= self._distortions_of_mean()
        return {"mean frame of the training rows": scores}

    def _distortions_of_mean(self) -> dict[str, float]:
        vocoder: Vocoder = self.facts["vocoder"]
        spoken: dict[int, np.ndarray] = {}  # of each length
        found = []
        for row in torch.arange(min(len(self.test), HEARD_ROWS)):
            mel = self.test[row[None]].mels[0]
            if len(mel) not in spoken:
                spoken[len(mel)] = vocoder.waveform(torch.zeros_like(mel), seed=0)
            reference = vocoder.waveform(mel, seed=2 * int(row))
            found.append(distortions(reference, spoken[len(mel)], vocoder.sample_rate))
        mcd, msd, mcd_path, msd_path, num_frames, _ = np.sum(found, axis=0).tolist()
        return {
            "mcd": mcd / num_frames,
            "msd": msd / num_frames,
            "mcd_path": mcd / mcd_path,
            "msd_path": msd / msd_path,
        }

    def _range(self, values: np.ndarray) -> tuple[float, float]:
        """From the least to the greatest of the training rows."""
        padded, padding = replace(self.train.tokens, values=values).padded(self.train.items)
        there = padded[~padding]
        return there.min().item(), there.max().item()

    def setup(self, stage: str | None = None) -> None:
        """Read or generate all splits, once.

        Raises:
            Unavailable: If librosa, which reads and makes speech, is not installed.
        """
        if hasattr(self, "train"):
            return
        check_librosa()
        if self.source == "generated":
            self._generate()
        else:
            self._read()

    def _read(self) -> None:
        options = ljspeech.Options(
            self.spectrum,
            self.text,
            self.needs_durations,
            self.max_source_len,
            self.max_target_len,
        )
        clips = ljspeech.read(
            Path(self.source).expanduser(),
            options,
            textgrids=self.textgrids,
            cache_dir=self.cache_dir,
            num_workers=self.num_workers,
        )
        self.is_complete = len(clips) == ljspeech.NUM_CLIPS
        self.split, parts = ljspeech.split_of(clips.names, self.split)
        symbols = ljspeech.symbols_of(clips)
        known = sorted({symbol for clip in parts["train"] for symbol in symbols[clip]})
        numbers = {symbol: number for number, symbol in enumerate(known, start=UNKNOWN + 1)}
        self.vocab_size = UNKNOWN + 1 + len(known)
        tokens = [np.array([numbers.get(s, UNKNOWN) for s in text]) for text in symbols]
        ends = np.cumsum([len(text) for text in tokens])

        durations = pitch = energy = np.zeros(ends[-1])
        if self.needs_durations:
            if self.textgrids is None:
                durations = ljspeech.aligned(
                    clips, tokens, parts["train"], cache_dir=self.cache_dir
                )
            else:
                durations = clips.arrays["duration"]
            pitch, energy = (
                np.log1p(token_means(clips.arrays[name], durations)) for name in ("pitch", "energy")
            )

        def with_end(values: np.ndarray, dtype: type, end: int = 0) -> np.ndarray:
            return np.insert(values, ends, end).astype(dtype)

        mean, deviation = map(torch.from_numpy, ljspeech.moments(clips, parts["train"]))
        whole = Utterances(
            Ragged(
                with_end(np.concatenate(tokens), np.int64, END), ends + np.arange(len(ends)) + 1
            ),
            Ragged(clips.arrays["mel"], clips.ends["mel"]),
            with_end(durations, np.int64),
            with_end(pitch, np.float32),
            with_end(energy, np.float32),
            np.arange(len(clips)),
            mean,
            deviation,
        )
        self.train, self.validation, self.test = (
            replace(whole, items=items) for items in parts.values()
        )

    def _generate(self) -> None:
        longest = generated.MAX_TOKENS, generated.MAX_FRAMES
        if self.max_source_len < longest[0] or self.max_target_len < longest[1]:
            raise ValueError(
                f"generated texts have up to {longest[0]} tokens and {longest[1]} frames, got "
                f"max_source_len {self.max_source_len} and max_target_len {self.max_target_len}"
            )
        self.vocab_size = generated.VOCAB_SIZE
        drawn = [
            generated.generate(num_rows, seed, marks=self.marks)
            for num_rows, seed in (
                (self.num_train, self.seed),
                (EVAL_ROWS, VALIDATION_SEED),
                (EVAL_ROWS, TEST_SEED),
            )
        ]
        mean = torch.from_numpy(drawn[0].mels.mean(axis=0, dtype=np.float64)).float()
        deviation = torch.from_numpy(drawn[0].mels.std(axis=0, dtype=np.float64)).float()
        self.train, self.validation, self.test = (
            Utterances(
                Ragged(speech.tokens, speech.num_tokens.cumsum()),
                Ragged(speech.mels, speech.num_frames.cumsum()),
                speech.durations,
                speech.pitch,
                speech.energy,
                np.arange(len(speech.num_tokens)),
                mean,
                deviation,
            )
            for speech in drawn
        )


def token_means(frames: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """The mean of each token's frames, float64 (tokens,); 0 where it has none.

    Args:
        frames: A value for each frame of all tokens, one after another.
        durations: int64 (tokens,).
    """
    sums = np.concatenate([[0.0], np.cumsum(frames, dtype=np.float64)])
    ends = np.cumsum(durations)
    return (sums[ends] - sums[ends - durations]) / np.maximum(durations, 1)
