"""Byte-level sentiment: film reviews that are generated, from the hub, or from files.

Source: Tay et al., "Long Range Arena", ICLR 2021, arXiv:2011.04006; Maas et al., "Learning Word
Vectors for Sentiment Analysis", ACL 2011 (IMDb; no licence is stated).
Departs from the former: a tenth of the training rows is held out for validation, where it validates
on the test rows (`protocol="lra2020"` does so too).
In: tokens (B, N), byte and 1, cut and then padded. Out: 0 (rejects the film) or 1 (praises it).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.lra.batch import Batch
from tasks.lra.documents import PAD, VOCAB_SIZE, Documents
from tasks.lra.sources import (
    LraData,
    Part,
    check_label,
    from_hub,
    hold_out,
    missing,
    parquet,
    spread,
)
from tasks.lra.text_classification.generate import Settings, generate
from tasks.rules.labels import majority
from tasks.rules.ngrams import naive_bayes

HUB = "stanfordnlp/imdb"
OFFICIAL_ROWS = 25_000
"""Of the training part and of the test part."""
FOLDER = (
    "a folder with imdb_{train,test}.parquet or {train,test}.parquet, or with the folders "
    "{train,test}/{neg,pos} of aclImdb"
)

FITTED_ROWS = 10_000
"""Training rows that the rule of runs of bytes is fitted to, if there are so many."""

Examples = tuple[list[bytes], list[int]]
"""Texts and their labels."""


class Reviews:
    """Whole batches of documents with their labels."""

    def __init__(self, documents: Documents, labels: Tensor) -> None:
        self.documents, self.labels = documents, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Batch:
        tokens = self.documents.tokens(rows)
        return Batch(tokens, tokens == PAD, self.labels[rows])


class TextClassificationData(LraData):
    """Reviews and whether they praise.

    Args:
        source: "generated", see `generate`; "hub" for IMDb; or a folder with
            `imdb_{train,test}.parquet` or `{train,test}.parquet` (columns text and label), or the
            folders `{train,test}/{neg,pos}/*.txt` of aclImdb.
        num_aspects: See `generate.Settings`, for generated rows alone.
        **given: See `LraData`; of `protocol`, above.
    """

    train: Reviews
    validation: Reviews
    test: Reviews
    task = "text_classification"
    sources = f"generated, hub or {FOLDER}"
    has_hub = True

    def __init__(
        self, *, source: str, max_len: int = 4096, num_aspects: int = 6, **given: Any
    ) -> None:
        super().__init__(source=source, max_len=max_len, **given)
        self.is_whole = False
        if source == "generated":
            self.settings = Settings(max_len, num_aspects)

    @property
    def dataset(self) -> str:
        """IMDb, marked where it is only a part; or what is generated."""
        if self.source == "generated":
            return "reviews-synthetic"
        return "IMDb" if self.is_whole else "IMDb-sample"

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes."""
        return {
            "vocab_size": VOCAB_SIZE,
            "num_classes": 2,
            "max_len": self.max_len,
            "num_documents": 1,
            "grid": None,
        }

    def _read(self) -> None:
        train, test = (
            read_hub(split) if self.source == "hub" else read_folder(Path(self.source), split)
            for split in ("train", "test")
        )
        kept, held = hold_out(len(train[1]))
        if self.protocol == "lra2020":
            kept = torch.arange(len(train[1]))
        self.train = self._reviews(train, kept, self.num_train)
        self.test = self._reviews(test, torch.arange(len(test[1])), self.num_eval)
        self.validation = self.test
        if self.protocol == "fixed":
            self.validation = self._reviews(train, held, self.num_eval)
        sizes = [len(train[1]), len(self.train), len(self.test)]
        self.is_whole = sizes == [OFFICIAL_ROWS, len(kept), OFFICIAL_ROWS]

    def trivial_scores(self) -> dict[str, dict[str, float]]:
        """The most frequent label, and naive Bayes on runs of bytes."""
        train, test = self.train, self.test
        fitted = spread(len(train), FITTED_ROWS)
        scores = {
            "majority": majority(train.labels, test.labels),
            "6-grams of bytes": naive_bayes(
                (lambda number: train.documents[int(fitted[number])], train.labels[fitted]),
                (test.documents.__getitem__, test.labels),
            ),
        }
        return {rule: {"accuracy": score} for rule, score in scores.items()}

    def _generated(self, part: Part, seed: int, num_rows: int) -> Reviews:
        texts, labels = generate(seed, num_rows, self.settings)
        return Reviews(
            Documents([row.tobytes() for row in texts], self.max_len), torch.from_numpy(labels)
        )

    def _reviews(self, examples: Examples, rows: Tensor, count: int | None) -> Reviews:
        texts, labels = examples
        chosen = rows[spread(len(rows), count)].tolist()
        documents = Documents([texts[row] for row in chosen], self.max_len)
        return Reviews(documents, torch.tensor([labels[row] for row in chosen]))


def read_hub(split: str) -> Examples:
    """A split of IMDb on the hub."""
    rows = from_hub(HUB, split, FOLDER)
    return [text.encode() for text in rows["text"]], list(rows["label"])


def read_folder(folder: Path, split: str) -> Examples:
    """A split of a folder; see `TextClassificationData`.

    Raises:
        ValueError: Naming file and row, if something is missing or not what it should be.
    """
    names = (f"imdb_{split}.parquet", f"{split}.parquet")
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is not None:
        return _from_parquet(path)
    examples = list(_from_files(folder / split))
    if not examples:
        raise missing(folder, [*names, f"{split}/pos/*.txt"])
    if (classes := {label for _, label in examples}) != {0, 1}:
        absent = "neg" if 0 not in classes else "pos"
        raise ValueError(f"{folder / split / absent} has no .txt file")
    return [text for text, _ in examples], [label for _, label in examples]


def _from_parquet(path: Path) -> Examples:
    texts, labels = parquet(path, "text", "label")
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        where = f"{path}, row {row} (counted from 0)"
        if not isinstance(text, str):
            raise ValueError(f"{where}: expected a text, got {text!r}")
        check_label(label, 2, where)
    return [text.encode() for text in texts], labels


def _from_files(folder: Path) -> Iterator[tuple[bytes, int]]:
    for label, name in enumerate(("neg", "pos")):
        for path in sorted((folder / name).glob("[!.]*.txt")):
            yield path.read_bytes(), label
