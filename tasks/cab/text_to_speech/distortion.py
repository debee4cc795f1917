"""How far synthesised speech is from a reference: mel-cepstral and mel-spectral distortion.

Source: fairseq's `examples/speech_synthesis/evaluation/eval_sp.py`, whose figures CAB reports;
Weiss et al., "Wave-Tacotron", ICASSP 2021, arXiv:2011.03568. The features are as torchaudio's; the
filters and the alignment are librosa's.
CAB divides the sum of all costs by the number of synthesised frames, so longer speech has a lower
score. What else it can be divided by is told too.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

WINDOW_S, HOP_S = 0.05, 0.0125
MIN_HZ, NUM_MELS, NUM_CEPSTRA, OFFSET = 20.0, 80, 13, 1e-6
STEPS = np.array([[0, 1], [1, 1], [1, 0]])
"""Of an alignment, rows and columns; of equals the first is taken."""


class Distortions(NamedTuple):
    """Of one utterance.

    Attributes:
        mcd: The mel-cepstral cost: the distances of paired frames, summed along the cheapest path.
        msd: The mel-spectral one.
        mcd_path: Pairs of frames on the path.
        msd_path: Likewise.
        synthesised_frames: How many there are.
        reference_frames: How many there are.
    """

    mcd: float
    msd: float
    mcd_path: int
    msd_path: int
    synthesised_frames: int
    reference_frames: int


def distortions(reference: np.ndarray, synthesised: np.ndarray, sample_rate: int) -> Distortions:
    """Both distortions of a recording (L,) and what is to sound like it (M,)."""
    expected, actual = (
        log_mels(waveform, sample_rate) for waveform in (reference, synthesised)
    )  # (frames, NUM_MELS)
    mcd, mcd_path = align(distances(expected @ _cosines(), actual @ _cosines()))
    msd, msd_path = align(distances(expected, actual))
    return Distortions(mcd, msd, mcd_path, msd_path, len(actual), len(expected))


def log_mels(waveform: np.ndarray, sample_rate: int) -> Tensor:
    """Frames, float64 (L // hop + 1, NUM_MELS); what is shorter than a window is filled up."""
    window_len, hop_len = int(WINDOW_S * sample_rate), int(HOP_S * sample_rate)
    missing = max(window_len // 2 + 1 - len(waveform), 0)
    samples = torch.from_numpy(np.pad(waveform, (0, missing))).double()
    window = torch.hann_window(window_len, dtype=torch.float64)
    spectrum = torch.stft(
        samples, window_len, hop_len, window=window, pad_mode="reflect", return_complex=True
    )
    return (_filters(sample_rate, window_len) @ spectrum.abs().square() + OFFSET).log().mT


@cache
def _filters(sample_rate: int, window_len: int) -> Tensor:
    import librosa

    filters = librosa.filters.mel(
        sr=sample_rate, n_fft=window_len, n_mels=NUM_MELS, fmin=MIN_HZ, htk=True, norm=None
    )
    return torch.from_numpy(filters).double()


@cache
def _cosines() -> Tensor:
    """The orthonormal cosine transform, (NUM_MELS, NUM_CEPSTRA)."""
    places = torch.arange(NUM_MELS, dtype=torch.float64)[:, None] + 0.5
    cosines = (math.pi / NUM_MELS * places * torch.arange(NUM_CEPSTRA)).cos()
    cosines[:, 0] /= math.sqrt(2)
    return cosines * math.sqrt(2 / NUM_MELS)


def distances(expected: Tensor, actual: Tensor) -> np.ndarray:
    """Root mean squared differences (M, N) of frames (M, F) and (N, F)."""
    return (torch.cdist(expected, actual) / math.sqrt(expected.shape[1])).numpy()


def align(table: np.ndarray) -> tuple[float, int]:
    """The cheapest path through a table (M, N) from corner to corner: its cost and its length.

    Steps go to the next row, the next column or both, and all weigh alike. Of paths that cost the
    same it is the one that, from its end, goes back a column where it can, else both. Through what
    is not finite there is none, and the cost is NaN.
    """
    import librosa

    if not np.isfinite(table).all():
        return math.nan, sum(table.shape) - 1
    costs, path = librosa.sequence.dtw(C=table, step_sizes_sigma=STEPS)
    return float(costs[-1, -1]), len(path)
