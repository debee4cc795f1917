"""ROUGE-1, ROUGE-2 and summary-level ROUGE-L, by `rouge-score` with Porter stemming.

Source: Lin, "ROUGE", 2004; CAB's settings: F1, stemming, no stop words removed, x 100.
Departs from CAB: `rouge-score` in place of the Perl script, and so no bootstrap interval; sentences
are split by the rule of `split_sentences`, not by NLTK's trained splitter, whose data do not come
with a package. Only rougeLsum sees sentences.
"""

import functools
import re

from rouge_score.rouge_scorer import RougeScorer

METRICS = ("rouge1", "rouge2", "rougeLsum")
EMPTY = "empty"
"""Stands for an empty summary, which the original script cannot score."""

_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+(?=[\"'“‘(\[–—-]*\s*[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:(?:[A-Z]\.)*[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Gen|Col|Lt|Sgt|Capt|Gov|Sen|Rep|Rev|No|vs"
    r"|Inc|Corp|Co|Jan|Feb|Aug|Sept|Oct|Nov|Dec)\.\s+"
)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text.

    A line break ends one; so do `.`, `!` or `?`, with closing quotes, before white space and a
    capital or a digit, unless the dot belongs to initials (`J.`, `U.S.`) or to one of some thirty
    common abbreviations.
    """
    sentences = []
    for line in text.splitlines():
        start = 0
        for end in _END.finditer(line):
            if not _is_abbreviation(line, end):
                sentences.append(line[start : end.end()])
                start = end.end()
        sentences.append(line[start:])
    return [sentence.strip() for sentence in sentences if sentence.strip()]


def rouge_f1(summary: str, reference: str) -> dict[str, float]:
    """F1 x 100 of each of `METRICS` for one summary."""
    lines = ["\n".join(split_sentences(text)) for text in (reference, summary.strip() or EMPTY)]
    return {name: 100 * score.fmeasure for name, score in _scorer().score(*lines).items()}


def _is_abbreviation(line: str, end: re.Match[str]) -> bool:
    word_start = line.rfind(" ", 0, end.start()) + 1
    return _ABBREVIATION.fullmatch(line[word_start : end.end()].lstrip("\"'“‘([")) is not None


@functools.cache
def _scorer() -> RougeScorer:
    return RougeScorer(list(METRICS), use_stemmer=True)
