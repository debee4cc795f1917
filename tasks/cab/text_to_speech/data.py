"""Texts and how they are spoken, as log-mel frames: LJSpeech, or generated.

Source: fairseq's `examples/speech_synthesis`; recordings are read by
`tasks.cab.text_to_speech.ljspeech`, generated speech is described in `.generate`.
Departs from CAB: mean, deviation and the ranges of pitch and energy are those of the training
rows; fairseq takes all rows.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks.cab.text_to_speech import generate as generated
from tasks.cab.text_to_speech.audio import Spectrum, Vocoder
from tasks.data import TEST_SEED, VALIDATION_SEED, TaskData, check_counts

PAD, END, UNKNOWN = range(3)
"""The numbers of padding, of `</s>`, and of a symbol that no training text has."""
EVAL_ROWS = 128


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
        ends = self.ends[items]
        starts = np.where(items > 0, self.ends[items - 1], 0)
        places = starts[:, None] + np.arange((ends - starts).max())
        padding = places >= ends[:, None]
        values = self.values[np.where(padding, starts[:, None], places)]
        values[padding] = 0
        return torch.from_numpy(values), torch.from_numpy(padding)


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
        num_train: Generated training rows.
        max_source_len: Texts with more tokens are left out; their `</s>` counts.
        max_target_len: Recordings with more frames are left out.
        **loading: See `TaskData`.

    Raises:
        ValueError: If a number is not positive.
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
        num_train: int = 4096,
        num_iterations: int = 32,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_counts(
            max_source_len=max_source_len,
            max_target_len=max_target_len,
            num_train=num_train,
            num_iterations=num_iterations,
        )
        self.source = source
        self.max_source_len = max_source_len
        self.max_target_len = max_target_len
        self.num_train = num_train
        self.num_iterations = num_iterations
        self.spectrum = Spectrum()
        self.vocab_size = 0

    @property
    def dataset(self) -> str:
        """What is generated."""
        return "speech-synthetic"

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes, the ranges of pitch and energy, and what makes speech of frames."""
        train = self.train
        return {
            "vocab_size": self.vocab_size,
            "num_mels": train.mels.values.shape[1],
            "max_source_len": self.max_source_len,
            "max_target_len": self.max_target_len,
            "pitch_range": self._range(train.pitch),
            "energy_range": self._range(train.energy),
            "vocoder": Vocoder(self.spectrum, train.mean, train.deviation, self.num_iterations),
        }

    def _range(self, values: np.ndarray) -> tuple[float, float]:
        """From the least to the greatest of the training rows."""
        padded, padding = replace(self.train.tokens, values=values).padded(self.train.items)
        there = padded[~padding]
        return there.min().item(), there.max().item()

    def setup(self, stage: str | None = None) -> None:
        """Read or generate all splits, once."""
        if not hasattr(self, "train"):
            self._generate()

    def _generate(self) -> None:
        longest = generated.MAX_TOKENS, generated.MAX_FRAMES
        if self.max_source_len < longest[0] or self.max_target_len < longest[1]:
            raise ValueError(
                f"generated texts have up to {longest[0]} tokens and {longest[1]} frames, got "
                f"max_source_len {self.max_source_len} and max_target_len {self.max_target_len}"
            )
        self.spectrum, self.vocab_size = generated.SPECTRUM, generated.VOCAB_SIZE
        drawn = [
            generated.generate(num_rows, seed)
            for num_rows, seed in (
                (self.num_train, self.seed),
                (EVAL_ROWS, VALIDATION_SEED),
                (EVAL_ROWS, TEST_SEED),
            )
        ]
        mean = torch.from_numpy(drawn[0].mels.mean(axis=0))
        deviation = torch.from_numpy(drawn[0].mels.std(axis=0))
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
