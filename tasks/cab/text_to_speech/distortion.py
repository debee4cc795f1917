"""How far synthesised speech is from a reference: mel-cepstral and mel-spectral distortion.

Source: fairseq's `examples/speech_synthesis/evaluation/eval_sp.py`, whose figures CAB reports;
Weiss et al., "Wave-Tacotron", ICASSP 2021, arXiv:2011.03568. The features are torchaudio's.
CAB divides the sum of all costs by the number of synthesised frames, so longer speech has a lower
score. What else it can be divided by is told too.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks.cab.text_to_speech.audio import mel_filters

WINDOW_S, HOP_S = 0.05, 0.0125
MIN_HZ, NUM_MELS, NUM_CEPSTRA, OFFSET = 20.0, 80, 13, 1e-6


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
    tables = [distances(expected @ _cosines(), actual @ _cosines()), distances(expected, actual)]
    (mcd, msd), (mcd_path, msd_path) = (values.tolist() for values in align(np.stack(tables)))
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
    return mel_filters(
        sample_rate, window_len, NUM_MELS, MIN_HZ, sample_rate / 2, slaney=False
    ).double()


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


def align(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest paths through tables (K, M, N) from corner to corner: costs and lengths, (K,).

    Steps go to the next row, the next column or both, and all weigh alike. Of paths that cost the
    same it is the one that, from its end, goes back a column where it can, else both.
    """
    num_tables, num_rows, num_columns = tables.shape
    # Cells of an anti-diagonal do not need each other. Each is made a line, ordered by the row of
    # the cell; what no path takes stands beside the table, and before the first cell of a line.
    num_lines = num_rows + num_columns - 1
    lines = np.full((num_lines, num_tables, num_rows), np.inf)
    rows = np.arange(num_rows)[:, None]
    lines[rows + np.arange(num_columns), :, rows] = tables.transpose(1, 2, 0)
    costs = np.full((3, num_tables, num_rows + 1), np.inf)
    lengths = np.zeros((3, num_tables, num_rows + 1), dtype=np.int64)
    costs[0, :, 1], lengths[0, :, 1] = lines[0, :, 0], 1
    for line in range(1, num_lines):
        new, last, before = line % 3, (line - 1) % 3, (line - 2) % 3
        column, both, row = costs[last, :, 1:], costs[before, :, :-1], costs[last, :, :-1]
        least = np.minimum(column, both)
        steps = np.where(column <= both, lengths[last, :, 1:], lengths[before, :, :-1])
        lengths[new, :, 1:] = np.where(least <= row, steps, lengths[last, :, :-1]) + 1
        np.minimum(least, row, out=costs[new, :, 1:])
        costs[new, :, 1:] += lines[line]
    end = (num_lines - 1) % 3
    return costs[end, :, -1], lengths[end, :, -1]
