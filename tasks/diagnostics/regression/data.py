"""The rows of the regressions, and the rules that their curves are read beside.

Two layouts. A stream, for causal self-attention: every point is asked for, and shown once it has
been, so that the k-th is asked after k examples. Else so many points are examples, and the others
are asked and never shown: for the patterns that would see the answers of a stream.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attentions.base import Pattern
from tasks.data import TEST_SEED, VALIDATION_SEED, GeneratedData, check_counts
from tasks.diagnostics.answers import Fresh
from tasks.diagnostics.regression.generate import Settings, generate
from tasks.rules import regression as rules


class Batch(NamedTuple):
    """Points; see `generate.Points`.

    Attributes:
        x: float32 (B, K, d).
        y: float32 (B, K, m).
        piece: int64 (B, K).
        weights: float32 (B, S, d, m).
    """

    x: Tensor
    y: Tensor
    piece: Tensor
    weights: Tensor


class Rows:
    """Rows in memory."""

    def __init__(self, settings: Settings, seed: Sequence[int], count: int) -> None:
        drawn = (torch.from_numpy(part) for part in generate(seed, count, settings))
        x, y, piece, weights = drawn
        self.rows = Batch(x, y, piece.long(), weights)

    def __len__(self) -> int:
        return len(self.rows.x)

    def __getitem__(self, rows: Tensor) -> Batch:
        return Batch._make(part[rows] for part in self.rows)

    def every(self) -> Batch:
        """All of them."""
        return self.rows


class RegressionData(GeneratedData):
    """Generated rows: the same validation and test rows for every seed, other training rows.

    Args:
        pattern: That the rows are for, with `stream`.
        num_shown: Examples, where the layout is not a stream.
        stream: Whether it is one in causal self-attention.
        num_train: Training rows of an epoch; each epoch has others.
        num_eval: Validation rows, and test rows.
        num_points: See `Settings`, as `dim`, `num_outputs`, `num_pieces` and `pieces`.
        **given: See `GeneratedData`.

    Raises:
        ValueError: If a size does not fit, or what changes in time is not a stream.
    """

    title = "regression"
    test: Rows

    def __init__(
        self,
        *,
        pattern: str,
        num_points: int,
        dim: int,
        num_outputs: int = 1,
        num_pieces: int = 1,
        pieces: Any = "key",
        num_shown: int,
        stream: bool,
        num_train: int,
        num_eval: int,
        **given: Any,
    ) -> None:
        super().__init__(**given)
        check_counts(num_train=num_train, num_eval=num_eval)
        self.pattern = Pattern(pattern)
        if not 1 <= num_shown < num_points:
            raise ValueError(
                f"regression: 1 <= num_shown < num_points fails: {num_shown}, {num_points}"
            )
        stream = stream and self.pattern is Pattern.CAUSAL_SELF
        if pieces == "time" and not stream:
            raise ValueError(
                "regression: pieces of time are asked for as they pass, in a stream of causal_self"
            )
        self.settings = Settings(num_points, dim, num_outputs, num_pieces, pieces)
        self.num_shown = None if stream else num_shown
        self.num_train, self.num_eval = num_train, num_eval

    @property
    def dataset(self) -> str:
        """Its name with dimension and points; the task itself is generated."""
        s = self.settings
        shown = "" if self.num_shown is None else f"-shown{self.num_shown}"
        pieces = "" if s.num_pieces == 1 else f"-{s.num_pieces}{s.pieces}pieces"
        return f"Regression-d{s.dim}-K{s.num_points}{shown}{pieces}"

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes."""
        s = self.settings
        sizes = {"dim": s.dim, "num_outputs": s.num_outputs, "num_points": s.num_points}
        return {**sizes, "num_shown": self.num_shown}

    def setup(self, stage: str | None = None) -> None:
        """Generate what the stage needs."""
        if stage != "test":
            make = functools.partial(Rows, self.settings)
            self.train = Fresh(self.num_train, make, seed=(self.seed,))  # pyright: ignore
            self.validation = Rows(self.settings, (VALIDATION_SEED,), self.num_eval)
        if stage != "fit":
            self.test = Rows(self.settings, (TEST_SEED,), self.num_eval)

    def trivial_scores(self) -> dict[str, dict[str, float]]:
        """Zero, averaging, three nearest neighbours and least squares, on the examples of a row."""
        batch = self.test.every()
        x, y = batch.x.double(), batch.y.double()
        counts = range(self.settings.num_points) if self.num_shown is None else [self.num_shown]
        errors: dict[str, list[float]] = {}
        for count in counts:
            end = count + 1 if self.num_shown is None else None
            asked, answers = x[:, count:end], y[:, count:end]
            shown = x[:, :count], y[:, :count]
            guesses = {name: rule(*shown, asked) for name, rule in rules.RULES.items()}
            if self.settings.num_pieces > 1:
                piece = batch.piece[:, :count, None] == batch.piece[:, None, count:end]
                guess = rules.least_squares_of_the_piece(*shown, asked, piece)
                guesses["least squares of the piece"] = guess
            for name, guess in guesses.items():
                error = (guess - answers).square().mean() / self.settings.dim
                errors.setdefault(name, []).append(error.item())
        scores = {}
        for name, by_count in errors.items():
            scores[name] = {"squared_error": sum(by_count) / len(by_count)}
            if self.num_shown is None:
                scores[name] |= {
                    f"squared_error_{count}_examples": error for count, error in enumerate(by_count)
                }
        return scores
