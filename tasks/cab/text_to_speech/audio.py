"""Log-mel spectra of recordings, and recordings made of spectra again.

Source: fairseq's `examples/speech_synthesis` and `fairseq/models/text_to_speech/vocoder.py`, which
CAB ran; the filters are librosa's. Griffin & Lim, 1984.
All of it is what librosa computes, but in torch: librosa compiles its inner loops when they are
first used, which takes longer than a run on generated speech.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def mel_filters(
    sample_rate: int,
    fft_len: int,
    num_mels: int,
    min_hz: float,
    max_hz: float,
    *,
    slaney: bool = True,
) -> Tensor:
    """Triangles on the mel scale, float32 (num_mels, fft_len // 2 + 1).

    Args:
        sample_rate: Of the recordings.
        fft_len: Samples of a transform.
        num_mels: How many there are.
        min_hz: Where the first begins.
        max_hz: Where the last ends.
        slaney: On Slaney's scale and each of area 1, as in librosa; otherwise on HTK's scale and
            each of height 1, as in torchaudio.
    """
    bins = torch.linspace(0, sample_rate / 2, fft_len // 2 + 1, dtype=torch.float64)
    ends = torch.tensor([min_hz, max_hz], dtype=torch.float64)
    low, high = (_slaney_mels(ends) if slaney else 2595 * (1 + ends / 700).log10()).tolist()
    mels = torch.linspace(low, high, num_mels + 2, dtype=torch.float64)
    edges = _slaney_hz(mels) if slaney else 700 * (10 ** (mels / 2595) - 1)
    widths = edges.diff()[:, None]
    rising = (bins - edges[:-2, None]) / widths[:-1]
    falling = (edges[2:, None] - bins) / widths[1:]
    filters = torch.minimum(rising, falling).clamp(min=0)
    if slaney:
        filters *= 2 / (edges[2:] - edges[:-2])[:, None]
    return filters.float()


KNEE_HZ, MELS_PER_HZ = 1000.0, 3 / 200
"""Slaney's scale is linear below the knee and logarithmic above."""
LOG_STEP = math.log(6.4) / 27


def _slaney_mels(hz: Tensor) -> Tensor:
    above = KNEE_HZ * MELS_PER_HZ + (hz.clamp(min=KNEE_HZ) / KNEE_HZ).log() / LOG_STEP
    return torch.where(hz < KNEE_HZ, hz * MELS_PER_HZ, above)


def _slaney_hz(mels: Tensor) -> Tensor:
    knee = KNEE_HZ * MELS_PER_HZ
    above = KNEE_HZ * ((mels - knee).clamp(min=0) * LOG_STEP).exp()
    return torch.where(mels < knee, mels / MELS_PER_HZ, above)


@dataclass(frozen=True)
class Spectrum:
    """How recordings become log-mel spectra. The defaults are CAB's.

    Attributes:
        sample_rate: Of the recordings.
        num_mels: Values of a frame.
        window_len: Samples of a frame, in a Hann window.
        hop_len: Samples from one frame to the next.
        min_hz: The lowest frequency of a filter.
        max_hz: The highest.
        floor: What is less counts as this.
    """

    sample_rate: int = 22_050
    num_mels: int = 80
    window_len: int = 1024
    hop_len: int = 256
    min_hz: float = 20.0
    max_hz: float = 8000.0
    floor: float = 1e-5

    @cached_property
    def filters(self) -> Tensor:
        """See `mel_filters`."""
        return mel_filters(
            self.sample_rate, self.window_len, self.num_mels, self.min_hz, self.max_hz
        )

    @cached_property
    def window(self) -> Tensor:
        """Of Hann, periodic, in float64."""
        return torch.hann_window(self.window_len, dtype=torch.float64)

    def transform(self, waveform: Tensor) -> Tensor:
        """Complex spectra (T, window_len // 2 + 1) of samples (L,): T = L // hop_len + 1.

        The ends of the waveform are mirrored; it must be longer than half a window.
        """
        half = self.window_len // 2
        mirrored = F.pad(waveform[None], (half, half), mode="reflect")[0]
        frames = mirrored.unfold(0, self.window_len, self.hop_len)
        return torch.fft.rfft(frames * self.window.to(waveform.dtype))

    def overlap_add(self, frames: Tensor) -> Tensor:
        """Samples ((T - 1) * hop_len,) of frames (T, window_len), summed where they overlap."""
        length = self.window_len + self.hop_len * (len(frames) - 1)
        added = F.fold(frames.mT[None], (1, length), (1, self.window_len), stride=(1, self.hop_len))
        half = self.window_len // 2
        return added[0, 0, 0, half : length - half]

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Log-mel frames, float32 (T, F), of samples (L,)."""
        # In float64: the logarithm of what is nearly nothing shows how float32 rounds.
        magnitudes = self.transform(waveform.double()).abs()
        return (magnitudes @ self.filters.mT.double()).clamp(min=self.floor).log().float()


@dataclass(frozen=True)
class Vocoder:
    """Speech of normalised log-mel spectra, by the algorithm of Griffin and Lim.

    Attributes:
        spectrum: How the spectra were made.
        mean: What was subtracted from a frame, (F,).
        deviation: What it was divided by, (F,).
        num_iterations: Of the search for phases; CAB: 32.
    """

    spectrum: Spectrum
    mean: Tensor
    deviation: Tensor
    num_iterations: int = 32

    @property
    def sample_rate(self) -> int:
        """Of the speech."""
        return self.spectrum.sample_rate

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.linalg.pinv(self.spectrum.filters.double()).mT.float()

    def waveform(self, mel: Tensor, *, seed: int) -> np.ndarray:
        """Samples, float32 ((T - 1) * hop_len,), of frames (T, F).

        Args:
            mel: Normalised log-mels, of any type and device.
            seed: Of the phases that the search begins with.
        """
        spectrum = self.spectrum
        logs = mel.detach().cpu().float() * self.deviation + self.mean
        magnitudes = (logs.exp() @ self._inverse).clamp(min=0)  # (T, bins)
        num_samples = (len(mel) - 1) * spectrum.hop_len
        # The ends are mirrored, so what is too short is spoken with silence after it.
        least = spectrum.window_len // 2 // spectrum.hop_len + 2
        magnitudes = F.pad(magnitudes, (0, 0, 0, max(least - len(mel), 0)))
        turns = np.random.default_rng(seed).random(magnitudes.shape)
        return self.speak(magnitudes, torch.from_numpy(turns))[:num_samples].numpy()

    def speak(self, magnitudes: Tensor, turns: Tensor) -> Tensor:
        """Samples with such magnitudes, as nearly as there are any.

        Args:
            magnitudes: (T, bins).
            turns: The phases that the search begins with, likewise, in full turns.
        """
        spectrum = self.spectrum
        window = spectrum.window.float()
        weights = spectrum.overlap_add(window.square().expand(len(magnitudes), -1))
        angles = torch.polar(torch.ones_like(magnitudes), (2 * math.pi * turns).float())
        for iteration in range(self.num_iterations + 1):
            frames = torch.fft.irfft(magnitudes * angles, n=spectrum.window_len)
            waveform = spectrum.overlap_add(frames * window) / weights
            if iteration < self.num_iterations:
                angles = spectrum.transform(waveform).sgn()
        return waveform
