"""A needle in a haystack of tokens: length by depth, beside decoys.

Source: the haystack with several keys of RULER, Hsieh et al. 2024, arXiv:2404.06654. The form in
tokens is ours, for models that know no language: noise tokens, and among them triples of marker,
key and value, one of which is asked for by marker and key at the end.
In: the haystack, then marker and key. Out: the value. Scores: argmax over the vocabulary, mean over
rows; also for each length and depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.diagnostics.draws import distinct
from tasks.diagnostics.questions import Questions, QuestionsData


@dataclass(frozen=True)
class Settings:
    """Of one kind of row.

    Attributes:
        length: Of the whole: haystack and question.
        depth: Where the needle stands, from 0, before all noise, to 1, after all of it.
        num_decoys: Triples with other keys.
        num_noise: Noise tokens to draw from, the first of the vocabulary.
        num_keys: Keys; they come after the noise and the marker.
        num_values: Values, the last of the vocabulary.

    Raises:
        ValueError: If the needle and its decoys do not fit.
    """

    length: int
    depth: float
    num_decoys: int = 3
    num_noise: int = 32
    num_keys: int = 32
    num_values: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.depth <= 1:
            raise ValueError(f"needle: 0 <= depth <= 1 fails: depth {self.depth}")
        if min(self.num_noise, self.num_values) < 1 or self.num_decoys < 0:
            raise ValueError(
                "needle: num_noise >= 1, num_values >= 1 and num_decoys >= 0 fails: "
                f"{self.num_noise}, {self.num_values}, {self.num_decoys}"
            )
        if self.num_decoys + 1 > self.num_keys:
            raise ValueError(
                f"needle: num_decoys + 1 <= num_keys fails: {self.num_decoys} + 1 > {self.num_keys}"
            )
        if 3 * (self.num_decoys + 1) + 2 > self.length:
            raise ValueError(
                "needle: 3 * (num_decoys + 1) + 2 <= length fails: "
                f"3 * ({self.num_decoys} + 1) + 2 > {self.length}"
            )

    @property
    def marker(self) -> int:
        """The token before a key."""
        return self.num_noise

    @property
    def vocab_size(self) -> int:
        """Noise, marker, keys, values."""
        return self.num_noise + 1 + self.num_keys + self.num_values


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Questions:
    """Draw `count` rows; the needle is the first drawn of the triples."""
    rng = np.random.default_rng(seed)
    triples = settings.num_decoys + 1
    num_noise = settings.length - 2 - 3 * triples  # tokens of noise in a row
    keys = settings.marker + 1 + distinct(rng, count, settings.num_keys, triples)
    first_value = settings.marker + 1 + settings.num_keys
    values = first_value + rng.integers(settings.num_values, size=(count, triples))
    # How many noise tokens stand before each triple; decoys fall anywhere.
    before = rng.integers(num_noise + 1, size=(count, triples))
    before[:, 0] = int(settings.depth * num_noise + 0.5)
    # In what order triples of the same place stand is drawn too.
    order = np.lexsort((rng.permuted(np.tile(np.arange(triples), (count, 1)), axis=1), before))
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.tile(np.arange(triples), (count, 1)), axis=1)
    start = before + 3 * rank
    context = rng.integers(settings.num_noise, size=(count, settings.length - 2), dtype=np.int32)
    for offset, tokens in enumerate((np.full_like(keys, settings.marker), keys, values)):
        np.put_along_axis(context, start + offset, tokens.astype(np.int32), axis=1)
    marker = np.full((count, 1), settings.marker)
    return Questions(
        context=context,
        queries=np.concatenate([marker, keys[:, :1]], axis=1).astype(np.int32),
        positions=np.ones((count, 1), np.int32),
        answers=values[:, :1].astype(np.int32),
    )


class NeedleData(QuestionsData):
    """Rows of a grid of lengths and depths, each with its own score.

    Args:
        train_length: Of the training rows, at every depth alike.
        test_lengths: Of the test rows.
        depths: Of the needle.
        num_decoys: See `Settings`, as `num_noise`, `num_keys` and `num_values`.
        **given: See `QuestionsData`.
    """

    title = "needle"
    generate = staticmethod(generate)

    def __init__(
        self,
        *,
        train_length: int,
        test_lengths: Sequence[int],
        depths: Sequence[float],
        num_decoys: int = 3,
        num_noise: int = 32,
        num_keys: int = 32,
        num_values: int = 32,
        **given: Any,
    ) -> None:
        def settings(length: int, depth: float) -> Settings:
            return Settings(length, depth, num_decoys, num_noise, num_keys, num_values)

        kinds = [settings(train_length, depth) for depth in depths]
        groups = {
            f"length_{length}_depth_{depth:g}": settings(length, depth)
            for length in test_lengths
            for depth in depths
        }
        super().__init__(kinds, groups, vocab_size=num_noise + 1 + num_keys + num_values, **given)
        self.train_length, self.num_decoys = train_length, num_decoys
        self.first_value = self.vocab_size - num_values

    @property
    def dataset(self) -> str:
        """Its name with the training length and decoys; the task itself is generated."""
        return f"Needle-L{self.train_length}-decoys{self.num_decoys}"

    def rules(self, rows: Questions) -> dict[str, np.ndarray]:
        """What knowing the values but not their keys gives, and the place of the last."""
        is_value = rows.context >= self.first_value
        share = ((rows.context == rows.answers) & is_value).sum(1) / is_value.sum(1)
        last = rows.context.shape[1] - 1 - is_value[:, ::-1].argmax(axis=1)
        last_value = np.take_along_axis(rows.context, last[:, None], axis=1)
        return {
            "any value of the context": share[:, None],
            "last value": rows.answers == last_value,
        }
