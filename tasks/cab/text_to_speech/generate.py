"""Generated speech in which what a token sounds like stands elsewhere in the text.

A text is three letters, as many calls for an echo, and up to two rests; then, in random order,
marks, which take no time: for each of the letters which tone it has, for each of these tones which
echo, and whose voice it is.

    text     b d a  echo echo echo  rest  tone2echo1 b-tone3 a-tone2 voice1 tone3echo0 ...
    speech   tone3 tone3 tone2  echo0 echo0 echo1  silence

A letter's tone is found in the marks by the encoder. A decoder that writes frame by frame reads the
text only once in its one layer: it finds the echo of a tone in the marks if it knows the tone, and
this only its self-attention tells, which remembers what was said three tokens earlier. Without
cross-attention nothing of the text is known. Pitch, energy and duration are those of the token
itself.

A frame is silence, and a bump at the place of its tone; an echo is a bump of half the height,
with a second one at the edge. The bins above are those of the voice, in what is not silence: they
are soon learned, in one pass too, by whatever mixes the text.
"""

from typing import NamedTuple

import numpy as np

from tasks.cab.text_to_speech.audio import Spectrum

LETTERS = TONES = ECHOES = 4
VOICES = 2
SPOKEN, MAX_RESTS = 3, 2
FRAMES = 4
"""Of each token that is spoken."""

FIRST_LETTER = 3
"""After padding, `</s>` and what is unknown."""
ECHO = FIRST_LETTER + LETTERS
REST = ECHO + 1
FIRST_TONE_MARK = REST + 1
FIRST_ECHO_MARK = FIRST_TONE_MARK + LETTERS * TONES
FIRST_VOICE_MARK = FIRST_ECHO_MARK + TONES * ECHOES
VOCAB_SIZE = FIRST_VOICE_MARK + VOICES
END = 1

MAX_TOKENS = 4 * SPOKEN + MAX_RESTS + 2
MAX_FRAMES = FRAMES * (2 * SPOKEN + MAX_RESTS)

SPECTRUM = Spectrum(
    sample_rate=4000, num_mels=20, window_len=200, hop_len=50, min_hz=20.0, max_hz=2000.0
)
SILENCE, HEIGHT = -8.0, 8.0
"""In log-mels."""
EDGE, VOICE_BINS = 13, 3
"""The bin in which an echo is heard too; behind it, those of each voice."""
ENVELOPE = np.array([0.7, 1.0, 0.9, 0.6])
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


def generate(num_rows: int, seed: int) -> Speech:
    """Rows as the module describes them."""
    generator = np.random.default_rng(seed)

    def shuffled(count: int) -> np.ndarray:
        return generator.random((num_rows, count)).argsort(axis=1)

    letters = shuffled(LETTERS)[:, :SPOKEN]
    tones = generator.integers(0, TONES, size=(num_rows, SPOKEN))
    echo_of = generator.integers(0, ECHOES, size=(num_rows, TONES))
    echoes = np.take_along_axis(echo_of, tones, axis=1)
    num_rests = generator.integers(0, MAX_RESTS, size=(num_rows, 1), endpoint=True)

    marks = np.hstack(
        [FIRST_TONE_MARK + letters * TONES + tones, FIRST_ECHO_MARK + tones * ECHOES + echoes]
    )
    voices = generator.integers(0, VOICES, size=(num_rows, 1))
    marks = np.hstack([marks, FIRST_VOICE_MARK + voices])
    marks = np.take_along_axis(marks, shuffled(2 * SPOKEN + 1), axis=1)

    said = FIRST_LETTER + letters
    called = np.full((num_rows, SPOKEN), ECHO)
    rests = np.full((num_rows, MAX_RESTS), REST)
    text = np.hstack([said, called, rests, marks, np.full((num_rows, 1), END)])
    is_there = np.ones(text.shape, dtype=bool)
    first_mark = 2 * SPOKEN + MAX_RESTS
    is_there[:, 2 * SPOKEN : first_mark] = np.arange(MAX_RESTS) < num_rests
    tokens = text[is_there]

    tone = _bumps(tones, HEIGHT)
    echo = _bumps(echoes, HEIGHT / 2)
    echo[..., EDGE] += HEIGHT / 2
    first = EDGE + 1 + VOICE_BINS * voices[..., None]
    bins = np.arange(SPECTRUM.num_mels)
    voice = HEIGHT * ((bins >= first) & (bins < first + VOICE_BINS))
    rest = np.zeros((num_rows, MAX_RESTS, SPECTRUM.num_mels))
    sounds = np.concatenate([tone + voice, echo + voice, rest], axis=1)[is_there[:, :first_mark]]
    mels = SILENCE + sounds[:, None] * ENVELOPE[:, None]  # (spoken tokens, FRAMES, F)
    return Speech(
        tokens,
        is_there.sum(axis=1),
        mels.reshape(-1, SPECTRUM.num_mels).astype(np.float32),
        FRAMES * is_there[:, :first_mark].sum(axis=1),
        np.where((tokens < FIRST_TONE_MARK) & (tokens != END), FRAMES, 0),
        _PITCH[tokens],
        _ENERGY[tokens],
    )


def _bumps(places: np.ndarray, height: float) -> np.ndarray:
    """Bumps (rows, SPOKEN, F), each alone in its third of a handful of bins."""
    centres = 2 + 3 * places[..., None]
    return height * np.exp(-((np.arange(SPECTRUM.num_mels) - centres) ** 2) / 2)


def _of_tokens(letters: np.ndarray, echo: float) -> np.ndarray:
    values = np.zeros(VOCAB_SIZE, dtype=np.float32)
    values[FIRST_LETTER:ECHO], values[ECHO] = letters, echo
    return values


_PITCH = _of_tokens(np.log(1 + np.linspace(100, 250, LETTERS)), np.log(1 + 80))
_ENERGY = _of_tokens(np.full(LETTERS, 3.0), 2.0)
