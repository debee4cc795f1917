"""The pitch and the energy of each frame of a recording.

Source: fairseq's `examples/speech_synthesis/data_utils.py`.
Departs from it: pitch is librosa's YIN (de Cheveigné & Kawahara, 2002), where fairseq takes DIO and
StoneMask of WORLD; docs/tasks.md says how far they are apart.
"""

import numpy as np
import torch
import torch.nn.functional as F

from tasks.cab.text_to_speech.audio import Spectrum

MIN_HZ, MAX_HZ = 71.0, 800.0
"""Where DIO looks too."""
LEAST_PERIODICITY = 0.7
"""The correlation of a voiced frame with itself, a period later."""


def pitch(waveform: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Hertz of each frame, float32 (T,), drawn on through unvoiced ones; 0 if none is voiced."""
    import librosa

    length, hop = spectrum.window_len, spectrum.hop_len
    hertz = librosa.yin(
        waveform,
        fmin=MIN_HZ,
        fmax=MAX_HZ,
        sr=spectrum.sample_rate,
        frame_length=length,
        hop_length=hop,
    )
    periods = np.rint(spectrum.sample_rate / hertz).astype(int)
    voiced = _periodicity(np.pad(waveform, length // 2), periods, length, hop) > LEAST_PERIODICITY
    if not voiced.any():
        return np.zeros(len(hertz), dtype=np.float32)
    frames = np.arange(len(hertz))
    return np.interp(frames, frames[voiced], hertz[voiced]).astype(np.float32)


def _periodicity(samples: np.ndarray, periods: np.ndarray, length: int, hop: int) -> np.ndarray:
    """How each frame correlates with itself a period later, from -1 to 1."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[::hop][: len(periods)]
    places = np.arange(length)
    later = places + periods[:, None]
    inside = later < length
    first = np.where(inside, frames, 0)
    second = np.where(inside, np.take_along_axis(frames, np.minimum(later, length - 1), axis=1), 0)
    powers = (first**2).sum(axis=1) * (second**2).sum(axis=1)
    return (first * second).sum(axis=1) / np.sqrt(np.maximum(powers, 1e-12))


def energy(waveform: torch.Tensor, spectrum: Spectrum) -> np.ndarray:
    """The norm of each frame's magnitudes, not windowed, as fairseq has it; float32 (T,)."""
    half = spectrum.window_len // 2
    mirrored = F.pad(waveform[None], (half, half), mode="reflect")[0]
    frames = mirrored.unfold(0, spectrum.window_len, spectrum.hop_len)
    return torch.fft.rfft(frames).abs().norm(dim=1).float().numpy()
