"""The rows of MQAR in every pattern: one setting, a mixture of several, or a curriculum.

In the self patterns a row is one sequence. In the cross patterns the same row is cut behind its
pairs: they are the context, and the rest is the stream of queries.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from attentions.base import Pattern
from tasks.data import TEST_SEED, VALIDATION_SEED, GeneratedData, check_counts
from tasks.diagnostics.answers import Answers, Fresh, Group, Mixture
from tasks.diagnostics.mqar.generate import Settings, generate
from tasks.rules import answers as rules

Sizes = int | Sequence[int]


class MqarData(GeneratedData):
    """Generated rows: the same validation and test rows for every seed, other training rows.

    Args:
        seq_len: L of the training rows, or one for each of `num_pairs`.
        num_pairs: N, or several for a mixture.
        test_seq_len: L of the validation and test rows; None for that of training.
        test_num_pairs: Their N, one or several; None for that of training.
        num_train: Training rows in all, of which each size has an equal share; or a number for
            each size.
        num_eval: Validation rows in all, and test rows; each size has an equal share.
        curriculum_epochs: For how many epochs each size is trained on before the next takes its
            place; None for all sizes in every epoch.
        fresh: Whether training rows are drawn anew in each epoch.
        vocab_size: See `Settings`, as `power`, `filler`, `num_passes` and `separator`.
        pattern: Which of the four patterns the rows are laid out for.
        **given: See `GeneratedData`.

    Raises:
        ValueError: If there would be no row to train or to evaluate on, or a size does not fit.
    """

    title = "mqar"

    def __init__(
        self,
        *,
        seq_len: Sizes,
        num_pairs: Sizes,
        test_seq_len: Sizes | None = None,
        test_num_pairs: Sizes | None = None,
        vocab_size: int = 8192,
        power: float = 0.01,
        filler: bool = False,
        num_passes: int = 1,
        separator: bool = False,
        num_train: Sizes,
        num_eval: int,
        curriculum_epochs: int | None = None,
        fresh: bool = False,
        pattern: str = "causal_self",
        **given: Any,
    ) -> None:
        super().__init__(**given)
        check_counts(num_eval=num_eval, curriculum_epochs=curriculum_epochs)
        common = Settings(
            vocab_size=vocab_size,
            power=power,
            filler=filler,
            num_passes=num_passes,
            separator=separator,
            num_pairs=1,
            seq_len=2**30,
        )
        self.trained = _sizes(common, seq_len, num_pairs)
        test_seq_len = seq_len if test_seq_len is None else test_seq_len
        test_num_pairs = num_pairs if test_num_pairs is None else test_num_pairs
        self.tested = _sizes(common, test_seq_len, test_num_pairs)
        self.num_train = _shares("num_train", num_train, len(self.trained))
        self.num_eval = _shares("num_eval", num_eval, len(self.tested))
        self.curriculum_epochs, self.fresh = curriculum_epochs, fresh
        self.pattern = Pattern.CAUSAL_SELF if pattern == "all" else Pattern(pattern)

    @property
    def dataset(self) -> str:
        """Its name with lengths, pairs and what is not as in Zoology."""
        lengths, pairs = (
            "+".join(str(size) for size in dict.fromkeys(sizes))
            for sizes in zip(*((s.seq_len, s.num_pairs) for s in self.tested), strict=True)
        )
        first = self.tested[0]
        kinds = [
            *(["filler"] if first.filler else []),
            *(["separator"] if first.separator else []),
            *([f"power{first.power:g}"] if first.power != 0.01 else []),
            *([f"passes{first.num_passes}"] if first.num_passes > 1 else []),
        ]
        return "-".join([f"MQAR-L{lengths}-N{pairs}", *kinds])

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes, and the groups of the test rows."""
        every = [*self.trained, *self.tested]
        return {
            "vocab_size": every[0].num_tokens,
            "seq_len": max(s.seq_len - self._cut(s) for s in every),
            "context_len": max(map(self._cut, every)) if self.pattern.is_cross else None,
            "groups": [Group(f"{s.num_pairs}_pairs", s.seq_len) for s in self.tested],
        }

    def setup(self, stage: str | None = None) -> None:
        """Generate what the stage needs."""
        if stage != "test":
            self.train = Mixture(
                [
                    Fresh(count, functools.partial(self._rows, s), seed=(self.seed, number))
                    if self.fresh
                    else self._rows(s, (self.seed, number), count)
                    for number, (s, count) in enumerate(
                        zip(self.trained, self.num_train, strict=True)
                    )
                ],
                epochs_each=self.curriculum_epochs,
            )
            self.validation = self._evaluation(VALIDATION_SEED)
        if stage != "fit":
            self.test = self._evaluation(TEST_SEED)

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """The most frequent value, the last one, and the values in the order of the pairs."""
        train = [
            self._rows(settings, (self.seed, number), min(count, 10_000)).rows.answers.flatten()
            for number, (settings, count) in enumerate(
                zip(self.trained, self.num_train, strict=True)
            )
        ]
        frequent = rules.most_frequent(torch.cat(train).long())
        scores = {"majority": 0.0, "last value": 0.0, "in order": 0.0}
        for number, settings in enumerate(self.tested):
            member = self._rows(settings, (TEST_SEED, number), self.num_eval[number], number)
            asked = member.every()
            # The j-th query is answered with the j-th value.
            ranks = asked.positions.argsort(dim=1).argsort(dim=1)
            guesses = {
                "majority": frequent,
                "last value": asked.answers[:, -1:],
                "in order": asked.answers.gather(1, ranks),
            }
            for rule, guess in guesses.items():
                right = rules.shares_right(guess, asked.answers).sum()
                scores[rule] += float(right) / sum(self.num_eval)
        return {rule: {"accuracy": score} for rule, score in scores.items()}

    def _evaluation(self, seed: int) -> Mixture:
        return Mixture(
            [
                self._rows(settings, (seed, number), count, number)
                for number, (settings, count) in enumerate(
                    zip(self.tested, self.num_eval, strict=True)
                )
            ]
        )

    def _rows(
        self, settings: Settings, seed: Sequence[int], count: int, group: int | None = None
    ) -> Answers:
        """Rows of one size, in the layout of the pattern."""
        made, cut = generate(seed, count, settings), self._cut(settings)
        return Answers(
            made.tokens[:, cut:],
            made.positions - cut,
            made.answers,
            context=made.tokens[:, :cut] if self.pattern.is_cross else None,
            groups=None if group is None else torch.full((count,), group),
        )

    def _cut(self, settings: Settings) -> int:
        return settings.context_len if self.pattern.is_cross else 0


def _sizes(common: Settings, seq_len: Sizes, num_pairs: Sizes) -> list[Settings]:
    """The settings of each size."""
    lengths, pairs = (
        [sizes] if isinstance(sizes, int) else list(sizes) for sizes in (seq_len, num_pairs)
    )
    if len(lengths) == 1:
        lengths = lengths * len(pairs)
    if len(lengths) != len(pairs) or not pairs:
        raise ValueError(
            f"mqar: seq_len must be one, or one for each of num_pairs, got {lengths} and {pairs}"
        )
    if len(set(zip(lengths, pairs, strict=True))) < len(pairs):
        raise ValueError(f"mqar: sizes must differ, got seq_len {lengths} and num_pairs {pairs}")
    return [
        replace(common, seq_len=length, num_pairs=number)
        for length, number in zip(lengths, pairs, strict=True)
    ]


def _shares(name: str, count: Sizes, num_sizes: int) -> list[int]:
    """How many rows each size has."""
    if isinstance(count, int):
        check_counts(**{name: count})
        if count < num_sizes:
            raise ValueError(
                f"mqar: {name} must be at least {num_sizes}, a row for each size, got {count}"
            )
        return [count // num_sizes + (number < count % num_sizes) for number in range(num_sizes)]
    counts = list(count)
    if len(counts) != num_sizes:
        raise ValueError(f"mqar: {name} must be one, or one for each size, got {counts}")
    for each in counts:
        check_counts(**{name: each})
    return counts
