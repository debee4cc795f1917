"""The rows of MAD's tasks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from tasks.data import TEST_SEED, VALIDATION_SEED, GeneratedData, check_counts
from tasks.diagnostics.answers import Answers
from tasks.diagnostics.mad.generate import Kind, Rows, Settings, generate
from tasks.rules import answers as rules
from tasks.rules.answers import IGNORED


class MadData(GeneratedData):
    """Generated rows: the same validation and test rows for every seed, other training rows.

    Args:
        kind: See `Settings`, as `vocab_size`, `seq_len`, `num_noise`, `noise_share`, `num_copied`.
        num_train: Training rows.
        num_eval: Validation rows, and test rows.
        change: What is otherwise in one run of a sweep: any of the settings, and `num_train`. MAD
            changes one thing at a time.
        **given: See `GeneratedData`.

    Raises:
        ValueError: If a change is of nothing that there is, or a size does not fit.
    """

    title = "mad"
    train: Answers
    validation: Answers
    test: Answers

    def __init__(
        self,
        *,
        kind: Kind,
        vocab_size: int,
        seq_len: int,
        num_noise: int | None = None,
        noise_share: float = 0.0,
        num_copied: int | None = None,
        num_train: int,
        num_eval: int,
        change: Mapping[str, Any] | None = None,
        **given: Any,
    ) -> None:
        super().__init__(**given)
        settings = {
            "vocab_size": vocab_size,
            "seq_len": seq_len,
            "num_noise": num_noise or 0,
            "noise_share": noise_share,
            "num_copied": num_copied or 0,
            "num_train": num_train,
        }
        change = dict(change or {})
        if unknown := change.keys() - settings.keys():
            raise ValueError(f"mad: change must be of {', '.join(settings)}, got {min(unknown)}")
        settings |= change
        self.num_train, self.num_eval = settings.pop("num_train"), num_eval
        check_counts(num_train=self.num_train, num_eval=num_eval)
        self.settings = Settings(kind, **settings)
        self.change = change

    @property
    def dataset(self) -> str:
        """The task, with what is changed."""
        changes = [f"{name}={value}" for name, value in sorted(self.change.items())]
        return "-".join(["MAD", self.settings.kind, *changes])

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes."""
        return {"vocab_size": self.settings.vocab_size, "seq_len": self.settings.seq_len}

    def setup(self, stage: str | None = None) -> None:
        """Generate what the stage needs."""
        if stage != "test":
            self.train = self._rows(self.seed, self.num_train, training=True)
            self.validation = self._rows(VALIDATION_SEED, self.num_eval)
        if stage != "fit":
            self.test = self._rows(TEST_SEED, self.num_eval)

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """The answer most frequent in training rows; in recall the last value and the usual one."""
        kind, batch = self.settings.kind, self.test.every()
        # What the test asks for, of training rows.
        asked = _asked(
            generate(self.seed, min(self.num_train, 2000), self.settings, training=False)
        )
        guesses = {"majority": rules.most_frequent(asked.every().answers)}
        if kind in ("in_context_recall", "noisy_recall"):
            known = self.settings.vocab_size - self.settings.num_noise
            is_value = (batch.tokens >= known // 2) & (batch.tokens < known)
            seen = (batch.tokens, batch.positions, is_value)
            guesses |= {
                "last value": rules.most_recent(*seen),
                "usual value": rules.most_frequent_before(*seen),
            }
        return {rule: self._scores(guess, batch.answers) for rule, guess in guesses.items()}

    def _scores(self, guess: Tensor, answers: Tensor) -> dict[str, float]:
        guess = guess.expand_as(answers).clamp(min=0)  # where there is no guess, what is no answer
        macro = multiclass_accuracy(
            guess, answers, self.settings.vocab_size, average="macro", ignore_index=IGNORED
        )
        return {
            "accuracy": float(rules.shares_right(guess, answers).mean()),
            "macro_accuracy": float(macro),
        }

    def _rows(self, seed: int, count: int, *, training: bool = False) -> Answers:
        return _asked(generate(seed, count, self.settings, training=training))


def _asked(rows: Rows) -> Answers:
    """The positions where something is asked for come first, in their order."""
    tokens, targets = (torch.from_numpy(part) for part in rows)
    is_blank = targets == IGNORED
    width = int((~is_blank).sum(dim=1).max())
    positions = is_blank.to(torch.int8).argsort(dim=1, stable=True)[:, :width]
    return Answers(tokens, positions.int(), targets.gather(1, positions))
