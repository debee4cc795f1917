"""The pitch and the energy of each frame of a recording.

Source: fairseq's `examples/speech_synthesis/data_utils.py`; de Cheveigné & Kawahara, "YIN, a
fundamental frequency estimator for speech and music", 2002, as librosa has it.
Departs from it: fairseq takes DIO and StoneMask of WORLD; docs/tasks.md says how far apart they
are. YIN does not tell what is voiced, so here it is what is neither quiet nor a hiss; librosa's
pYIN, which does tell, takes seconds for a recording.
"""

import math

import numpy as np
import torch

from tasks.cab.text_to_speech.audio import Spectrum

MIN_HZ, MAX_HZ = 71.0, 800.0
"""Where DIO looks too."""
QUIET, HISS_HZ = 0.1, 1650.0
"""A voiced frame is louder than this part of the loudest, and crosses zero less often than a tone
of so many Hz."""


def pitch(waveform: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Hertz of each frame, float32 (T,), drawn on through unvoiced ones; 0 if none is voiced."""
    import librosa

    three_periods = 2 * math.ceil(1.5 * spectrum.sample_rate / MIN_HZ)  # even, to be centred
    frame_len = max(spectrum.window_len, three_periods)
    hop_len = spectrum.hop_len
    hertz = librosa.yin(
        waveform,
        fmin=MIN_HZ,
        fmax=MAX_HZ,
        sr=spectrum.sample_rate,
        frame_length=frame_len,
        hop_length=hop_len,
    )
    loudness = librosa.feature.rms(y=waveform, frame_length=frame_len, hop_length=hop_len)[0]
    crossings = librosa.feature.zero_crossing_rate(
        waveform, frame_length=frame_len, hop_length=hop_len
    )[0]
    voiced = (loudness > QUIET * loudness.max()) & (crossings < 2 * HISS_HZ / spectrum.sample_rate)
    if not voiced.any():
        return np.zeros(len(hertz), dtype=np.float32)
    frames = np.arange(len(hertz))
    return np.interp(frames, frames[voiced], hertz[voiced]).astype(np.float32)


def energy(waveform: torch.Tensor, spectrum: Spectrum) -> np.ndarray:
    """The norm of each frame's magnitudes, not windowed, as fairseq has it; float32 (T,)."""
    spectra = spectrum.transform(waveform, torch.ones(spectrum.window_len))
    return spectra.abs().norm(dim=0).float().numpy()
