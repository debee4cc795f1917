"""The slips of CAB's paper and repository, each with the letter that marks it in every table.

Found by recomputing its numbers from each other; the files in results/published have the values as
printed. A letter means the same throughout a report.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SCORE, INDEX, EFFICIENCY, CORRELATION = "score", "index", "efficiency", "correlation"
"""The kinds of published numbers: of a task, of the leaderboard, of cost, and between indices."""
CAUSAL, NONCAUSAL, CROSS = "causal_self", "noncausal_self", "noncausal_cross"
AVERAGE = "average"
FEW = 2
"""So many points have a coefficient of 1 or -1, whatever they are."""


@dataclass(frozen=True)
class Slip:
    """What is wrong with published numbers.

    Attributes:
        places: By the kind of number, what its columns must be.
        text: A sentence for the foot of a table.
    """

    places: Mapping[str, Mapping[str, Container[Any]]]
    text: str


SLIPS = {
    "ᵃ": Slip(
        {
            SCORE: {"pattern": {CAUSAL}, "task": {"LM"}, "attention": {"abc"}},
            INDEX: {"pattern": {CAUSAL}, "task": {"LM", AVERAGE}, "attention": {"abc"}},
        },
        "the perplexity of ABC is 29.13 on CAB's task page, and 31.53 behind its constants, its "
        "figure (31.6) and its leaderboard, which has -1.117 and on average -0.623; 29.13 gives "
        "-0.828 and -0.526.",
    ),
    "ᵇ": Slip(
        {
            INDEX: {
                "pattern": {CAUSAL},
                "task": {"TTS", AVERAGE},
                "attention": {"s4d", "local_window"},
            }
        },
        "CAB's leaderboard has an index of TTS that is greater or less by 0.026: it had inputs "
        "that were cut, where they are printed rounded.",
    ),
    "ᶜ": Slip(
        {INDEX: {"pattern": {NONCAUSAL}, "task": {"Sum", AVERAGE}}},
        "the mean of ROUGE-L in CAB's script, 31.96889, is a misprint of 31.95889, which lowers "
        "every index of Sum by 0.0025; its leaderboard used the right one.",
    ),
    "ᵈ": Slip(
        {SCORE: {"task": {"LSTF"}, "data": {"ECL", "Weather"}}},
        "CAB's task page and script exchange the labels ECL and Weather; put right here by its "
        "results sheet and Informer's tables. No index changes.",
    ),
    "ᵉ": Slip(
        {
            SCORE: {
                "pattern": {CROSS},
                "task": {"LSTF"},
                "attention": {"softmax"},
                "metric": {"MAE"},
                "data": {"ETTh1 univariate", "ETT"},
            },
            INDEX: {"pattern": {CROSS}, "task": {"LSTF", AVERAGE}, "attention": {"softmax"}},
        },
        "the MAE of softmax on ETTh1, univariate, is printed as 0.24 beside an MSE of 0.251, and "
        "is probably 0.42: then its MAE on ETT is 0.805 for 0.775 and its index of LSTF 0.52 for "
        "0.744.",
    ),
    "ᶠ": Slip(
        {SCORE: {"attention": {"flash_attention"}}, INDEX: {"attention": {"flash_attention"}}},
        "FlashAttention is exact softmax attention: what parts it from softmax is the noise of a "
        "run, up to 0.2 of an index; in SR (21.82 dB, -5.43) an implementation that failed.",
    ),
    "ᵍ": Slip(
        {
            SCORE: {"pattern": {NONCAUSAL}, "task": {"Sum"}, "attention": {"local_window"}},
            INDEX: {
                "pattern": {NONCAUSAL},
                "task": {"Sum", AVERAGE},
                "attention": {"local_window"},
            },
        },
        "an outlier that nothing confirms: local attention is 4 points of ROUGE above softmax, all "
        "others within 1.1. It alone sets the deviation for Sum and the first place.",
    ),
    "ʰ": Slip(
        {SCORE: {"task": {"MLM"}}},
        "CAB's perplexity of MLM is on its validation rows.",
    ),
    "ⁱ": Slip(
        {CORRELATION: {"has_label_slip": {True}}},
        "the labels NS and LRA are exchanged in CAB's figure: the values in the row of LRA are "
        "those of NS recomputed from its leaderboard, and the reverse.",
    ),
    "ʲ": Slip(
        {CORRELATION: {"num_shared": {0, 1, FEW}}},
        "two mechanisms at most are shared, of which any coefficient is 1 or -1.",
    ),
    "ᵏ": Slip(
        {CORRELATION: {"is_imputed": {True}}},
        "does not follow from CAB's leaderboard: missing scores were filled in without a word "
        "(softmax's LM with an index near -3.15, S4D's Sum near -2.35), and local attention's "
        "causal TTS stands there with the other sign.",
    ),
    "ˡ": Slip(
        {EFFICIENCY: {"is_extrapolated": {True}}},
        "below 256 tokens, the smallest length that CAB measured.",
    ),
    "ᵐ": Slip(
        {EFFICIENCY: {"attention": {"abc"}, "quantity": {"time"}}},
        "by the fit; CAB's measured times of ABC and softmax cross at some 460 tokens.",
    ),
}
"""By the letter that marks them."""


def marks(kind: str, number: Mapping[str, Any]) -> str:
    """The letters of the slips that touch a published number.

    Args:
        kind: `SCORE`, `INDEX`, `EFFICIENCY` or `CORRELATION`.
        number: What identifies it, in CAB's names but for pattern and attention.
    """
    return "".join(
        letter
        for letter, slip in SLIPS.items()
        if kind in slip.places
        and all(number.get(key) in allowed for key, allowed in slip.places[kind].items())
    )


def words(letters: Iterable[str]) -> str:
    """What the slips of these letters are, in one line."""
    return " ".join(SLIPS[letter].text for letter in letters)


def footnotes(texts: Iterable[str]) -> list[str]:
    """A note for each letter that stands in one of the texts."""
    found = set("".join(texts))
    return [f"{letter}: {slip.text}" for letter, slip in SLIPS.items() if letter in found]
