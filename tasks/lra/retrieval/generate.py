"""Generated pairs of documents for runs of seconds: do they use the same term for what they treat?

A document begins with the number of its field. Further on it names a term for each field, in any
order and anywhere; there are two terms for a field, its small and its capital letter. Two documents
belong together if each uses the same of the two for its own field. The terms of the other fields
are chance, so the letters that both have in common say little.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tasks.lra.text_classification import generate as reviews


@dataclass(frozen=True)
class Settings:
    """What pairs are drawn from.

    Attributes:
        max_len: Bytes of a document.
        num_terms: How many terms it has.

    Raises:
        ValueError: If they do not fit into it.
    """

    max_len: int
    num_terms: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.num_terms <= reviews.MOST_ASPECTS:
            raise ValueError(
                f"pairs: 1 <= num_terms <= {reviews.MOST_ASPECTS} is not so for {self.num_terms}"
            )
        if not 1 + self.num_terms <= self.max_len:
            raise ValueError(
                f"pairs: 1 + num_terms <= max_len is not so for num_terms {self.num_terms} and "
                f"max_len {self.max_len}"
            )


class Pairs(NamedTuple):
    """Rows.

    Attributes:
        texts: ASCII, uint8 (rows, 2, max_len).
        labels: int64 (rows,).
    """

    texts: np.ndarray
    labels: np.ndarray


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Pairs:
    """Draw pairs one independently of the other."""
    of_one = reviews.Settings(settings.max_len, settings.num_terms)
    texts, terms = reviews.generate(seed, 2 * count, of_one)
    first, second = terms.reshape(count, 2).T
    return Pairs(texts.reshape(count, 2, settings.max_len), (first == second).astype(np.int64))
