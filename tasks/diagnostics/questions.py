"""A context, then questions about it: the rows of several tasks, laid out for each pattern.

In a self pattern the questions follow the context in one stream. In a cross pattern the stream of
the questions reads the context. Both hold the same tokens.

Shapes: C context length, M length of the questions, P answers.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from attentions.base import Pattern
from tasks.data import TEST_SEED, VALIDATION_SEED, GeneratedData, check_counts
from tasks.diagnostics.answers import Answering, Answers, Fresh, Group, Mixture
from tasks.rules.answers import IGNORED

SAMPLED = 1000
"""Training rows of each kind that tell which answer is the most frequent."""


class Questions(NamedTuple):
    """Rows of one kind.

    Attributes:
        context: int32 (rows, C); C may be 0.
        queries: The stream of the questions, int32 (rows, M).
        positions: Where answers are read in `queries`, int32 (rows, P).
        answers: int32 (rows, P); `IGNORED` where there is none.
    """

    context: np.ndarray
    queries: np.ndarray
    positions: np.ndarray
    answers: np.ndarray


def lay_out(rows: Questions, pattern: Pattern, groups: np.ndarray | None = None) -> Answers:
    """The rows as a model of this pattern reads them, with their groups (rows,)."""
    if pattern.is_cross:
        return Answers(
            rows.queries, rows.positions, rows.answers, context=rows.context, groups=groups
        )
    stream = np.concatenate([rows.context, rows.queries], axis=1)
    return Answers(stream, rows.context.shape[1] + rows.positions, rows.answers, groups=groups)


class QuestionsData(GeneratedData):
    """Generated rows: the same validation and test rows for every seed, other training rows.

    A subclass says what the kinds of rows are, and names its generator as `generate`.

    Args:
        train: The settings of the training rows; of several, each has an equal share.
        test: Those of each group of test rows, by its name.
        pattern: That the rows are laid out for.
        num_train: Training rows.
        fresh: Whether each epoch has other training rows, which are drawn when they are read.
        num_eval: Validation rows of each kind, and test rows of each group.
        **loading: See `GeneratedData`.

    Raises:
        ValueError: If there would be no row to train or to evaluate on, or a size does not fit.
    """

    generate: ClassVar[Any]
    """Called with (seed, count, settings), gives `Questions`."""

    train: Mixture
    validation: Mixture
    test: Mixture

    def __init__(
        self,
        train: Sequence[Any],
        test: Mapping[str, Any],
        *,
        vocab_size: int,
        pattern: str,
        num_train: int,
        num_eval: int,
        fresh: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if not train or not test:
            raise ValueError(f"{self.title}: there must be a kind of row to train and to test on")
        check_counts(num_train=num_train, num_eval=num_eval)
        if num_train < len(train) * self.batch_size:
            raise ValueError(
                f"{self.title}: num_train >= kinds of rows * batch_size, a batch of each, fails: "
                f"{num_train} < {len(train)} * {self.batch_size}"
            )
        self.pattern = Pattern(pattern)
        self.kinds, self.groups = list(train), dict(test)
        self.num_train, self.num_eval, self.fresh = num_train, num_eval, fresh
        self.vocab_size = vocab_size

    @property
    def facts(self) -> dict[str, Any]:
        """The greatest sizes, and the groups with the length of context and questions."""
        shapes = [self._draw(0, 1, settings) for settings in [*self.kinds, *self.groups.values()]]
        lengths = [(rows.context.shape[1], rows.queries.shape[1]) for rows in shapes]
        groups = zip(self.groups, lengths[len(self.kinds) :], strict=True)
        facts = {
            "vocab_size": self.vocab_size,
            "seq_len": max(map(sum, lengths)),
            "groups": [Group(name, sum(length)) for name, length in groups],
        }
        if self.pattern.is_cross:
            context_len, seq_len = (max(sizes) for sizes in zip(*lengths, strict=True))
            facts |= {"seq_len": seq_len, "context_len": context_len}
        return facts

    def setup(self, stage: str | None = None) -> None:
        """Generate what the stage needs."""
        if stage != "test":
            share = self.num_train // len(self.kinds)
            if self.fresh:
                self.train = Mixture(
                    [
                        Fresh(share, functools.partial(self._fresh, kind), seed=(self.seed, i))
                        for i, kind in enumerate(self.kinds)
                    ]
                )
            else:
                self.train = self._mixture(self.kinds, share, self.seed)
            self.validation = self._mixture(self.kinds, self.num_eval, VALIDATION_SEED)
        if stage != "fit":
            kinds = list(self.groups.values())
            self.test = self._mixture(kinds, self.num_eval, TEST_SEED, grouped=True)

    def rules(self, rows: Questions) -> Mapping[str, np.ndarray]:
        """How often each trivial rule is right on each answer, (rows, P), besides the majority."""
        del rows
        return {}

    def trivial_scores(self) -> dict[str, dict[str, float]]:
        """Those of the answer most frequent in training and of `rules`, for each group too."""
        train = [self._draw([self.seed, i], SAMPLED, kind) for i, kind in enumerate(self.kinds)]
        answers = np.concatenate([rows.answers.flatten() for rows in train])
        most_frequent = np.bincount(answers[answers != IGNORED]).argmax()
        scores: dict[str, dict[str, float]] = {}
        for group, (name, settings) in enumerate(self.groups.items()):
            rows = self._draw([TEST_SEED, group], self.num_eval, settings)
            is_asked = rows.answers != IGNORED
            rules = {"majority": rows.answers == most_frequent, **self.rules(rows)}
            for rule, right in rules.items():
                shares = (right * is_asked).sum(axis=1) / is_asked.sum(axis=1)
                scores.setdefault(rule, {})[f"accuracy_{name}"] = float(shares.mean())
        # The groups have as many rows each.
        return {
            rule: {"accuracy": sum(by_group.values()) / len(by_group), **by_group}
            for rule, by_group in scores.items()
        }

    def _mixture(
        self, kinds: Sequence[Any], count: int, seed: int, *, grouped: bool = False
    ) -> Mixture:
        by_shape: dict[Any, list[tuple[Questions, int]]] = {}
        for kind, settings in enumerate(kinds):
            rows = self._draw([seed, kind], count, settings)
            by_shape.setdefault(tuple(part.shape for part in rows), []).append((rows, kind))
        members = []
        for drawn in by_shape.values():
            parts = zip(*(rows for rows, _ in drawn), strict=True)
            groups = np.repeat([kind for _, kind in drawn], count)
            rows = Questions(*(np.concatenate(part) for part in parts))
            members.append(lay_out(rows, self.pattern, groups if grouped else None))
        return Mixture(members)

    def _fresh(self, settings: Any, seed: Sequence[int], count: int) -> Answers:
        return lay_out(self._draw(seed, count, settings), self.pattern)

    def _draw(self, seed: int | Sequence[int], count: int, settings: Any) -> Questions:
        return type(self).generate(seed, count, settings)


class Answerer(Answering):
    """Cross-entropy at the questions, in the four patterns. See `Answering`."""

    patterns = frozenset(Pattern)


class StreamAnswerer(Answerer):
    """The same for questions without a context, or with answers shown to later positions."""

    patterns = frozenset({Pattern.CAUSAL_SELF})
