"""The symbols of a text: its characters, or phonemes.

Departs from CAB: characters by default; its phonemes are those of g2p_en, which is not kept up, and
ours are espeak-ng's, as fairseq has them without `--use-g2p`.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

TEXTS = ("characters", "phonemes")
WORD, PHONE = "| ", " "
"""What phonemizer puts after a word and a phoneme; so `|` is a symbol of its own."""


def check(text: str) -> None:
    """Raise ValueError for another kind of symbols, or ModuleNotFoundError if it cannot be made."""
    if text not in TEXTS:
        raise ValueError(f"text must be one of {', '.join(TEXTS)}, got {text!r}")
    if text == "phonemes" and (find_spec("phonemizer") is None or not _has_espeak()):
        raise ModuleNotFoundError(
            "phonemes need phonemizer and espeak-ng (pip install phonemizer; apt install "
            "espeak-ng); task.data.text=characters needs neither"
        )


def symbols(transcript: str, text: str) -> list[str]:
    """The symbols of a transcript: lower-cased characters, or phonemes with `|` after each word."""
    transcript = " ".join(transcript.split())
    if text == "characters":
        return list(transcript.lower())
    from phonemizer.separator import Separator  # pyright: ignore[reportMissingImports]

    separator = Separator(phone=PHONE, word=WORD)
    spoken = _espeak().phonemize([transcript], separator=separator, strip=False)
    return " ".join(spoken).split()


def _has_espeak() -> bool:
    from phonemizer.backend import EspeakBackend  # pyright: ignore[reportMissingImports]

    return EspeakBackend.is_available()


@cache
def _espeak() -> Any:
    from phonemizer.backend import EspeakBackend  # pyright: ignore[reportMissingImports]

    return EspeakBackend("en-us")
