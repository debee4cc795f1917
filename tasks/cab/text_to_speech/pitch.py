"""The pitch and the energy of each frame of a recording.

Source: fairseq's `examples/speech_synthesis/data_utils.py`; de Cheveigné & Kawahara, "YIN, a
fundamental frequency estimator for speech and music", 2002.
Departs from it: pitch is YIN's, where fairseq takes DIO and StoneMask of WORLD; docs/tasks.md says
how far they are apart. librosa's YIN does not tell what is voiced, and its pYIN takes seconds for a
recording.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from tasks.cab.text_to_speech.audio import Spectrum

MIN_HZ, MAX_HZ = 71.0, 800.0
"""Where DIO looks too."""
TROUGH, VOICED = 0.1, 0.2
"""How unlike itself a period later (from 0 to about 1) the first period is that is taken; and at
most a voiced frame."""


def pitch(waveform: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Hertz of each frame, float32 (T,), drawn on through unvoiced ones; 0 if none is voiced."""
    hertz, unlikeness = yin(waveform, spectrum.sample_rate, spectrum.hop_len)
    voiced = unlikeness < VOICED
    if not voiced.any():
        return np.zeros(len(hertz), dtype=np.float32)
    frames = np.arange(len(hertz))
    return np.interp(frames, frames[voiced], hertz[voiced]).astype(np.float32)


def yin(waveform: np.ndarray, sample_rate: int, hop_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Hertz of each frame, (T,), and how unlike the frame is itself a period later, (T,)."""
    least, most = int(sample_rate / MAX_HZ), math.ceil(sample_rate / MIN_HZ) + 1
    padded = np.pad(waveform.astype(np.float64), most)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * most)[::hop_len]  # (T, 2 most)
    # The squared differences of `most` samples to those up to `most` later, all lags at once.
    size = 2 ** math.ceil(math.log2(3 * most))
    spectra = np.fft.rfft(frames, size) * np.fft.rfft(frames[:, :most], size).conj()
    products = np.fft.irfft(spectra, size)[:, : most + 1]
    sums = np.pad(np.cumsum(frames**2, axis=1), ((0, 0), (1, 0)))
    powers = sums[:, most:] - sums[:, : most + 1]
    differences = np.maximum(powers[:, :1] + powers - 2 * products, 0)[:, 1:]
    means = np.cumsum(differences, axis=1) / np.arange(1, most + 1)
    unlike = np.where(means > 1e-12, differences / np.maximum(means, 1e-12), 1.0)[:, least - 1 :]

    middle = unlike[:, 1:-1]  # of the lags least + 1 to most - 1
    is_trough = (middle <= unlike[:, :-2]) & (middle < unlike[:, 2:])
    found = is_trough & (middle < TROUGH)
    place = np.where(found.any(axis=1), found.argmax(axis=1), middle.argmin(axis=1))[:, None]
    before, at, after = (np.take_along_axis(unlike, place + i, axis=1)[:, 0] for i in range(3))
    bend = before - 2 * at + after
    shift = np.where(bend > 0, (before - after) / (2 * np.where(bend > 0, bend, 1)), 0)
    lags = least + 1 + place[:, 0] + np.clip(shift, -0.5, 0.5)
    return sample_rate / lags, at


def energy(waveform: torch.Tensor, spectrum: Spectrum) -> np.ndarray:
    """The norm of each frame's magnitudes, not windowed, as fairseq has it; float32 (T,)."""
    half = spectrum.window_len // 2
    mirrored = F.pad(waveform[None], (half, half), mode="reflect")[0]
    frames = mirrored.unfold(0, spectrum.window_len, spectrum.hop_len)
    return torch.fft.rfft(frames).abs().norm(dim=1).float().numpy()
