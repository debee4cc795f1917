"""Log-mel spectra of recordings, and recordings made of spectra again.

Source: fairseq's `examples/speech_synthesis` and `fairseq/models/text_to_speech/vocoder.py`, which
CAB ran. Griffin & Lim, 1984. The filters and the search for phases are librosa's, which compiles
its inner loops when a machine first uses most of it, for half a minute, and keeps them; the filters
alone need none of that.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Unavailable


def check_librosa() -> None:
    """Raise Unavailable if librosa is not installed."""
    if find_spec("librosa") is None:
        raise Unavailable("text_to_speech needs a package: pip install 'attnbench[speech]'")


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
        """Of the mel scale, as Slaney has it, float32 (num_mels, window_len // 2 + 1)."""
        import librosa

        return torch.from_numpy(
            librosa.filters.mel(
                sr=self.sample_rate,
                n_fft=self.window_len,
                n_mels=self.num_mels,
                fmin=self.min_hz,
                fmax=self.max_hz,
            )
        )

    def transform(self, waveform: Tensor, window: Tensor) -> Tensor:
        """Complex spectra (window_len // 2 + 1, T) of samples (L,): T = L // hop_len + 1.

        The ends of the waveform are mirrored; it must be longer than half a window.
        """
        return torch.stft(
            waveform,
            self.window_len,
            self.hop_len,
            window=window,
            pad_mode="reflect",
            return_complex=True,
        )

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Log-mel frames, float32 (T, F), of samples (L,)."""
        # In float64: the logarithm of what is nearly nothing shows how float32 rounds.
        window = torch.hann_window(self.window_len, dtype=torch.float64)
        magnitudes = self.transform(waveform.double(), window).abs()
        return (self.filters.double() @ magnitudes).clamp(min=self.floor).log().float().mT


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
        return torch.linalg.pinv(self.spectrum.filters.double()).float()

    def waveform(self, mel: Tensor, *, seed: int) -> np.ndarray:
        """Samples, float32 ((T - 1) * hop_len,), of frames (T, F); NaN of what is too loud.

        Args:
            mel: Normalised log-mels, of any type and device.
            seed: Of the phases that the search begins with.
        """
        import librosa

        spectrum = self.spectrum
        num_samples = (len(mel) - 1) * spectrum.hop_len
        logs = mel.detach().cpu().float() * self.deviation + self.mean
        magnitudes = (self._inverse @ logs.exp().mT).clamp(min=0)  # (bins, T)
        if not magnitudes.isfinite().all():  # librosa takes no such
            return np.full(num_samples, np.nan, dtype=np.float32)
        # The ends are mirrored, so what is too short is spoken with silence after it.
        least = spectrum.window_len // spectrum.hop_len + 2
        magnitudes = F.pad(magnitudes, (0, max(least - len(mel), 0)))
        waveform = librosa.griffinlim(
            magnitudes.double().numpy(),  # the sum of what float32 holds it may not hold
            n_iter=self.num_iterations,
            hop_length=spectrum.hop_len,
            n_fft=spectrum.window_len,
            momentum=0.0,
            pad_mode="reflect",
            random_state=np.random.default_rng(seed),
        )
        return torch.from_numpy(waveform[:num_samples]).float().numpy()
