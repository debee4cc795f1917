"""Spectra, speech made of them, pitch, and how far speech is from speech."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tasks.cab.text_to_speech.audio import Spectrum, Vocoder
from tasks.cab.text_to_speech.distortion import align, distortions, log_mels
from tasks.cab.text_to_speech.pitch import energy, pitch

compiles = pytest.mark.slow
"""What librosa compiles when a machine first uses it takes half a minute."""

RATE = 8000
SMALL = Spectrum(
    sample_rate=RATE, num_mels=12, window_len=128, hop_len=32, min_hz=50.0, max_hz=4000.0
)


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


def tone(hertz: float, seconds: float = 0.5) -> np.ndarray:
    """With three overtones."""
    turns = 2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE
    overtones = [np.sin(i * turns) / i for i in range(1, 5)]
    return np.sum(overtones, axis=0).astype(np.float32)


def vocoder(spectrum: Spectrum = SMALL) -> Vocoder:
    return Vocoder(spectrum, torch.zeros(spectrum.num_mels), torch.ones(spectrum.num_mels))


def test_a_log_mel_is_the_logarithm_of_filtered_magnitudes() -> None:
    samples = torch.from_numpy(noise(1000))
    window = torch.hann_window(128)
    magnitudes = torch.stft(samples, 128, 32, window=window, return_complex=True).abs()
    expected = (SMALL.filters @ magnitudes).clamp(min=1e-5).log().mT
    assert_close(SMALL.log_mel(samples), expected, rtol=1e-4, atol=1e-4)  # of float32
    assert len(expected) == 1000 // 32 + 1
    assert (SMALL.log_mel(torch.zeros(1000)) == math.log(1e-5)).all()


@compiles
def test_speech_comes_from_magnitudes_as_griffin_and_lim_say() -> None:
    mel = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    inverse = torch.linalg.pinv(SMALL.filters.double()).float()
    magnitudes = (mel.exp() @ inverse.mT).clamp(min=0).mT
    turns = torch.from_numpy(np.random.default_rng(3).random((65, 20)))
    window = torch.hann_window(128)
    expected, angles = (
        torch.empty(0),
        torch.polar(torch.ones(65, 20), (2 * math.pi * turns).float()),
    )
    for _ in range(33):
        expected = torch.istft(magnitudes * angles, 128, 32, window=window)
        rebuilt = torch.stft(expected, 128, 32, window=window, return_complex=True)
        angles = rebuilt.sgn()
    # Thirty-two times through a search that is not convex, in float32.
    assert_close(vocoder().waveform(mel, seed=3), expected.numpy(), rtol=1e-3, atol=1e-3)


@compiles
def test_speech_has_the_spectrum_it_was_made_of_and_its_seed_decides() -> None:
    mel = SMALL.log_mel(torch.from_numpy(tone(200) + 0.01 * noise(4000)))
    spoken = vocoder().waveform(mel, seed=3)
    assert spoken.dtype == np.float32
    assert len(spoken) == (len(mel) - 1) * 32
    assert (SMALL.log_mel(torch.from_numpy(spoken)) - mel).abs().mean() < 0.3  # a third: e^0.3
    assert np.array_equal(spoken, vocoder().waveform(mel.double(), seed=3))
    assert not np.array_equal(spoken, vocoder().waveform(mel, seed=4))
    moved = Vocoder(SMALL, torch.full((12,), -2.0), torch.full((12,), 4.0))
    assert_close(moved.waveform((mel + 2) / 4, seed=3), spoken, rtol=1e-2, atol=1e-2)


@compiles
def test_what_is_louder_than_any_number_is_no_speech_and_no_error() -> None:
    mel = torch.zeros(20, 12)
    for loudness in (80.0, 1e4):  # of the first float32 holds the exponential
        mel[3] = loudness
        found = distortions(noise(608), vocoder().waveform(mel, seed=0), RATE)
        assert np.isfinite(found.mcd) == (loudness < 100)


@compiles
@pytest.mark.parametrize("num_frames", [1, 2, 3, 4])
def test_a_few_frames_are_spoken_and_scored(num_frames: int) -> None:
    spoken = vocoder().waveform(torch.zeros(num_frames, 12), seed=0)
    assert len(spoken) == (num_frames - 1) * 32
    found = distortions(noise(4000), spoken, RATE)
    assert np.isfinite([found.mcd, found.msd]).all()


def cheapest(table: np.ndarray) -> tuple[float, int]:
    """The plain recurrence, cell by cell."""
    rows, columns = table.shape
    costs, lengths = (
        np.full((rows + 1, columns + 1), np.inf),
        np.zeros((rows + 1, columns + 1), int),
    )
    costs[0, 0] = 0
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            before = [(i, j - 1), (i - 1, j - 1), (i - 1, j)]
            best = min(before, key=lambda cell: costs[cell])  # the first of equals
            costs[i, j] = costs[best] + table[i - 1, j - 1]
            lengths[i, j] = lengths[best] + 1
    return costs[-1, -1], lengths[-1, -1]


@compiles
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (5, 9), (9, 5), (12, 12)])
@pytest.mark.parametrize("has_ties", [False, True])
def test_alignments_are_the_cheapest(shape: tuple[int, int], has_ties: bool) -> None:
    table = np.random.default_rng(0).random(shape)
    table = np.round(2 * table) if has_ties else table
    cost, length = align(table)
    assert_close(cost, cheapest(table)[0], rtol=1e-12, atol=1e-12)
    assert length == cheapest(table)[1]


@compiles
def test_log_mels_are_of_triangles_of_height_one_on_the_scale_of_htk() -> None:
    low, high = 2595 * np.log10(1 + np.array([20, 4000]) / 700)
    edges = 700 * (10 ** (np.linspace(low, high, 82) / 2595) - 1)
    bins = np.linspace(0, 4000, 201)
    filters = [np.interp(bins, edges[i : i + 3], [0, 1, 0]) for i in range(80)]
    samples = torch.from_numpy(noise(1000)).double()
    window = torch.hann_window(400, dtype=torch.float64)
    spectrum = torch.stft(samples, 400, 100, window=window, return_complex=True)
    expected = np.log(np.array(filters) @ spectrum.abs().square().numpy() + 1e-6).T
    # The filters are float32.
    assert_close(log_mels(noise(1000), RATE).numpy(), expected, rtol=1e-4, atol=1e-4)


@compiles
def test_distortions_are_root_mean_squares_along_the_path() -> None:
    first, second = noise(4000), noise(3500, seed=1)
    expected, actual = log_mels(first, RATE).numpy(), log_mels(second, RATE).numpy()
    assert expected.shape == (4000 // 100 + 1, 80)
    table = np.sqrt(((expected[:, None] - actual[None]) ** 2).mean(axis=-1))
    found = distortions(first, second, RATE)
    cost, length = cheapest(table)
    assert_close((found.msd, found.msd_path), (cost, length), rtol=1e-9, atol=1e-9)
    # Thirteen values of the orthonormal cosine transform, the first, of the sum, among them.
    places = (np.arange(80) + 0.5) * np.pi / 80
    cosines = np.cos(places[:, None] * np.arange(13)) * np.sqrt([1 / 80] + 12 * [2 / 80])
    table = np.sqrt((((expected @ cosines)[:, None] - actual @ cosines) ** 2).mean(axis=-1))
    cost, length = cheapest(table)
    assert_close((found.mcd, found.mcd_path), (cost, length), rtol=1e-9, atol=1e-9)
    assert (found.reference_frames, found.synthesised_frames) == (41, 36)


@compiles
def test_a_recording_is_not_far_from_itself_and_nan_stays() -> None:
    recording = noise(4000)
    assert_close(distortions(recording, recording, RATE)[:2], (0.0, 0.0), rtol=0, atol=1e-5)
    broken = recording.copy()
    broken[2000] = np.nan
    assert np.isnan(distortions(recording, broken, RATE)[:2]).all()


@compiles
@pytest.mark.parametrize("hertz", [90.0, 123.4, 200.0, 437.0])
def test_the_pitch_of_a_tone_is_found(hertz: float) -> None:
    found = pitch(tone(hertz), SMALL)
    inner = slice(10, -10)  # frames at the ends are partly empty
    assert len(found) == 4000 // 32 + 1
    assert_close(found[inner], np.full_like(found, hertz)[inner], rtol=1e-2, atol=0)


@compiles
def test_pitch_is_drawn_on_through_what_has_none() -> None:
    parts = [tone(100), 0.3 * noise(2000), tone(200)]
    found = pitch(np.concatenate(parts), SMALL)
    assert_close(found[10], np.float32(100), rtol=1e-2, atol=0)
    assert_close(found[-10], np.float32(200), rtol=1e-2, atol=0)
    unvoiced = found[(4000 + 200) // 32 : (6000 - 200) // 32]
    slopes = np.diff(unvoiced)
    assert_close(slopes, np.full_like(slopes, slopes[0]), rtol=1e-3, atol=1e-3)
    assert abs(unvoiced[len(unvoiced) // 2] - 150) < 20  # its ends lie in both sounds
    assert not pitch(np.zeros(2000, dtype=np.float32), SMALL).any()


def test_energy_is_the_norm_of_a_frame_without_window() -> None:
    samples = noise(1000)
    mirrored = np.pad(samples, 64, mode="reflect")
    frames = np.stack([mirrored[start : start + 128] for start in range(0, 1001, 32)])
    expected = np.linalg.norm(np.fft.rfft(frames), axis=1)
    assert_close(energy(torch.from_numpy(samples), SMALL), expected.astype(np.float32))
