"""Rows of a second: which of two tokens is the more frequent one."""

from typing import Any

import torch
from torch import Tensor

from tasks.data import TaskData
from tasks.lra.batch import Batch

LENGTH = 12


class Rows:
    def __init__(self, num_rows: int, seed: int, num_documents: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (num_rows, LENGTH) if num_documents == 1 else (num_rows, 2, LENGTH)
        self.tokens = torch.randint(1, 4, shape, generator=generator)
        self.tokens[..., 9:] = 0
        counts = (self.tokens == 1).sum(dim=-1) - (self.tokens == 2).sum(dim=-1)
        self.labels = (counts.reshape(num_rows, -1).sum(dim=1) > 0).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Batch:
        tokens = self.tokens[rows]
        return Batch(tokens, tokens == 0, self.labels[rows])


class FakeData(TaskData):
    train: Rows
    validation: Rows
    test: Rows

    def __init__(self, *, num_documents: int = 1, **common: Any) -> None:
        super().__init__(**common)
        self.num_documents = num_documents

    def setup(self, stage: str | None = None) -> None:
        self.train, self.validation, self.test = (
            Rows(count, seed, self.num_documents) for seed, count in enumerate((40, 30, 30))
        )

    @property
    def dataset(self) -> str:
        return "fake-synthetic"

    @property
    def facts(self) -> dict[str, Any]:
        facts = {"vocab_size": 4, "num_classes": 2, "max_len": LENGTH, "grid": None}
        return {**facts, "num_documents": self.num_documents}
