"""Capacity of an associative memory: how many pairs are held at 90 %, beside a Hebbian memory.

Source: none is followed whole. The rule is the linear associative memory, S = sum v k^T of random
unit keys, read by the nearest value; the task is `tasks.diagnostics.cross_recall` with numbers of
pairs that double until they no longer fit into a state, so that it can be read against the state's
size, in any pattern.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.data import TEST_SEED
from tasks.diagnostics.cross_recall import CrossRecall, CrossRecallData

HELD = 0.9
"""The accuracy at which pairs count as held."""


def hebbian_accuracy(
    seed: int | Sequence[int],
    num_pairs: int,
    *,
    key_dim: int,
    value_dim: int,
    num_values: int,
    count: int = 1,
) -> float:
    """The share of pairs that S = sum v k^T tells from all values, over `count` memories.

    Args:
        seed: Of the keys, which are random unit vectors, and of the values.
        num_pairs: That one S holds.
        key_dim: Of S.
        value_dim: Of S.
        num_values: Among which the answer is looked for, random vectors of unit variance.
        count: Memories.
    """
    rng = np.random.default_rng(seed)
    right = 0
    for _ in range(count):
        keys = rng.standard_normal((num_pairs, key_dim))
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        values = rng.standard_normal((num_values, value_dim))
        # With the largest product, a longer value would win more often than its share.
        values *= math.sqrt(value_dim) / np.linalg.norm(values, axis=1, keepdims=True)
        held = rng.integers(num_values, size=num_pairs)
        read = keys @ (keys.T @ values[held])
        right += int(((read @ values.T).argmax(axis=1) == held).sum())
    return right / (count * num_pairs)


def pairs_held(accuracies: dict[int, float]) -> float:
    """The number of pairs at which the accuracy falls below `HELD`, between two by their logarithm.

    Args:
        accuracies: By number of pairs. Where the first is below, 0; where none is, the last number.
    """
    numbers = sorted(accuracies)
    if accuracies[numbers[0]] < HELD:
        return 0.0
    for low, high in itertools.pairwise(numbers):
        if accuracies[high] < HELD:
            share = (accuracies[low] - HELD) / (accuracies[low] - accuracies[high])
            return float(low * (high / low) ** share)
    return float(numbers[-1])


class AssociativeMemoryData(CrossRecallData):
    """Rows of `CrossRecallData`, and the Hebbian memory of a size among their rules.

    Args:
        key_dim: Of the rule, as many as a head of the model has.
        value_dim: Of the rule.
        **given: See `CrossRecallData`.
    """

    title = "associative_memory"

    def __init__(self, *, key_dim: int, value_dim: int, **given: Any) -> None:
        super().__init__(**given)
        self.key_dim, self.value_dim = key_dim, value_dim

    @property
    def dataset(self) -> str:
        """Its name with the numbers of pairs; the task itself is generated."""
        return super().dataset.replace("CrossRecall", "AssociativeMemory")

    @property
    def facts(self) -> dict[str, Any]:
        """Those of cross recall, and the numbers of pairs."""
        return {**super().facts, "num_pairs": self.num_pairs}

    def trivial_scores(self) -> dict[str, dict[str, float]]:
        """With the Hebbian memory, whose keys are random and fit no data."""
        accuracies = {
            pairs: hebbian_accuracy(
                [TEST_SEED, pairs],
                pairs,
                key_dim=self.key_dim,
                value_dim=self.value_dim,
                num_values=self.vocab_size // 2,
                count=max(1, 1024 // pairs),
            )
            for pairs in self.num_pairs
        }
        scores = {f"accuracy_{pairs}_pairs": accuracy for pairs, accuracy in accuracies.items()}
        scores["accuracy"] = sum(accuracies.values()) / len(accuracies)
        scores["pairs_held"] = pairs_held(accuracies)
        return {**super().trivial_scores(), "hebbian memory": scores}


class AssociativeMemory(CrossRecall):
    """Cross recall, with the number of pairs held at 90 % as a measurement of its own."""

    def __init__(self, *given: Any, num_pairs: Sequence[int], **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.num_pairs = list(num_pairs)

    def measure(self) -> list[dict[str, Any]]:
        """The test accuracy of each number of pairs, and how many are held."""
        rows = super().measure()
        accuracies = [row["value"] for row in rows]
        held = pairs_held(dict(zip(self.num_pairs, accuracies, strict=True)))
        held_row = {"metric": "pairs_held", "value": held, "direction": "higher", "split": "test"}
        return [*rows, held_row]
