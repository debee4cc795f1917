"""Phonemes with their times, read from a TextGrid of the Montreal aligner, in Praat's long format.

Source: https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html; what silence is, and how
times become frames, as in fairseq's `examples/speech_synthesis/data_utils.py`.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

TIER = "phones"
SILENCES = frozenset({"", "sil", "sp", "spn"})
PAUSE = "sp"
"""A silence without a name of its own."""

_TIER = re.compile(r'name = "((?:[^"]|"")*)"')
_INTERVAL = re.compile(
    r'xmin = ([-+\d.eE]+)\s+xmax = ([-+\d.eE]+)\s+text = "((?:[^"]|"")*)"', re.DOTALL
)


class Phoneme(NamedTuple):
    """A symbol and when it is spoken, in seconds."""

    symbol: str
    begin: float
    end: float


def read(file: Path) -> list[Phoneme]:
    """The phonemes of the tier `phones`, without the silence before the first and after the last.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If there is no such tier, nothing is spoken in it, or intervals leave gaps.
    """
    content = file.read_text(encoding="utf-8-sig")
    names = [*_TIER.finditer(content)]
    for tier, after in zip(names, [*names[1:], None], strict=True):
        if tier[1] == TIER:
            end = len(content) if after is None else after.start()
            break
    else:
        raise ValueError(f"{file}: there is no tier {TIER!r}")
    found = [
        Phoneme(text.strip().replace('""', '"'), float(begin), float(end))
        for begin, end, text in _INTERVAL.findall(content, tier.end(), end)
    ]
    spoken = [i for i, phoneme in enumerate(found) if phoneme.symbol not in SILENCES]
    if not spoken:
        raise ValueError(f"{file}: nothing is spoken in the tier {TIER!r}")
    found = found[spoken[0] : spoken[-1] + 1]
    for phoneme, later in pairwise(found):
        if abs(phoneme.end - later.begin) > 1e-3:
            raise ValueError(
                f"{file}: {phoneme.symbol!r} ends at {phoneme.end} s, but what follows begins at "
                f"{later.begin} s"
            )
    return [phoneme._replace(symbol=phoneme.symbol or PAUSE) for phoneme in found]
