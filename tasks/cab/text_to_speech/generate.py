"""Generated speech in which what a letter sounds like stands elsewhere in the text.

A text is four letters with a rest behind each but the last, which may have one; then as many marks,
which take no time. They tell whose voice it is, over and over; or, in random order, which tone each
letter of the alphabet has.

    voice    b rest b rest d rest a rest  voice1 voice1 voice1 voice1
    tones    b rest b rest d rest a  c-tone0 b-tone3 a-tone2 d-tone1
             tone3 silence tone3 silence tone1 silence tone2

Where they tell the voice, a letter always has the same tone, and what mixes the text knows all. The
tone of a letter is harder: attention in the encoder finds it, but not a decoder that writes frame
by frame and reads the text only once in its one layer, when it does not know the letter yet.
Without cross-attention nothing of the text is known. The voice is then not told, but heard where
the first letter is said, and what was said before the last rest only the decoder's self-attention
remembers. Pitch, energy and duration are those of the token itself.

A frame is silence, and a bump at the place of its tone; the bins above are those of the voice, in
what is not silence.
"""

from typing import NamedTuple

import numpy as np

from tasks.cab.text_to_speech.audio import Spectrum

MARKS = ("voice", "tones")
LETTERS = TONES = 4
VOICES = 2
SPOKEN = 4
FRAMES = 4
"""Of each token that is spoken."""

FIRST_LETTER = 3
"""After padding, `</s>` and what is unknown."""
REST = FIRST_LETTER + LETTERS
FIRST_TONE_MARK = REST + 1
FIRST_VOICE_MARK = FIRST_TONE_MARK + LETTERS * TONES
VOCAB_SIZE = FIRST_VOICE_MARK + VOICES
END = 1

MAX_TOKENS = 2 * SPOKEN + LETTERS + 1
MAX_FRAMES = FRAMES * 2 * SPOKEN

SPECTRUM = Spectrum(
    sample_rate=4000, num_mels=20, window_len=200, hop_len=50, min_hz=20.0, max_hz=2000.0
)
SILENCE, HEIGHT = -8.0, 8.0
"""In log-mels."""
FIRST_VOICE_BIN, VOICE_BINS = 14, 3
"""Behind those of the tones, and how many each voice has."""
ENVELOPE = np.array([0.9, 1.0, 1.0, 0.9])
"""Of a token."""


class Speech(NamedTuple):
    """Rows of different lengths, end to end.

    Attributes:
        tokens: int64 (tokens,), each row ending with `</s>`.
        num_tokens: int64 (rows,).
        mels: float32 (frames, F), not normalised.
        num_frames: int64 (rows,).
        durations: int64 (tokens,), frames of each token.
        pitch: float32 (tokens,).
        energy: float32 (tokens,).
    """

    tokens: np.ndarray
    num_tokens: np.ndarray
    mels: np.ndarray
    num_frames: np.ndarray
    durations: np.ndarray
    pitch: np.ndarray
    energy: np.ndarray


def generate(num_rows: int, seed: int, *, marks: str) -> Speech:
    """Rows as the module describes them.

    Args:
        num_rows: Their number.
        seed: Of the draws.
        marks: What they tell, one of `MARKS`.
    """
    generator = np.random.default_rng(seed)

    def drawn(high: int, count: int) -> np.ndarray:
        return generator.integers(0, high, size=(num_rows, count))

    letters, tone_of, voices = drawn(LETTERS, SPOKEN), drawn(TONES, LETTERS), drawn(VOICES, 1)
    if marks == "voice":
        tone_of[:] = np.arange(TONES)
        told = np.repeat(FIRST_VOICE_MARK + voices, LETTERS, axis=1)
    else:
        told = FIRST_TONE_MARK + TONES * np.arange(LETTERS) + tone_of
    text = np.full((num_rows, MAX_TOKENS), END)
    text[:, : 2 * SPOKEN : 2] = FIRST_LETTER + letters
    text[:, 1 : 2 * SPOKEN : 2] = REST
    text[:, 2 * SPOKEN : -1] = generator.permuted(told, axis=1)
    is_there = np.ones(text.shape, dtype=bool)
    is_there[:, 2 * SPOKEN - 1] = drawn(2, 1)[:, 0]
    tokens = text[is_there]

    bins = np.arange(SPECTRUM.num_mels)
    centres = 2 + 3 * np.take_along_axis(tone_of, letters, axis=1)[..., None]
    first = FIRST_VOICE_BIN + VOICE_BINS * voices[..., None]
    is_voice = (bins >= first) & (bins < first + VOICE_BINS)
    sounds = np.zeros((num_rows, 2 * SPOKEN, SPECTRUM.num_mels))  # and rests
    sounds[:, ::2] = HEIGHT * (np.exp(-((bins - centres) ** 2) / 2) + is_voice)
    sounds = sounds[is_there[:, : 2 * SPOKEN]]
    mels = SILENCE + sounds[:, None] * ENVELOPE[:, None]  # (spoken tokens, FRAMES, F)
    is_spoken = (tokens >= FIRST_LETTER) & (tokens <= REST)
    return Speech(
        tokens,
        is_there.sum(axis=1),
        mels.reshape(-1, SPECTRUM.num_mels).astype(np.float32),
        FRAMES * is_there[:, : 2 * SPOKEN].sum(axis=1),
        np.where(is_spoken, FRAMES, 0),
        _PITCH[tokens],
        _ENERGY[tokens],
    )


_PITCH, _ENERGY = np.zeros((2, VOCAB_SIZE), dtype=np.float32)
_PITCH[FIRST_LETTER:REST] = np.log(1 + np.linspace(100, 250, LETTERS))
_ENERGY[FIRST_LETTER:REST] = 3.0
