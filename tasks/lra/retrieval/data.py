"""Byte-level document matching: pairs of papers that are generated, or read from LRA's files.

Source: Tay et al., "Long Range Arena", ICLR 2021, arXiv:2011.04006; Radev et al., "The ACL
Anthology network corpus", 2013 (AAN), whose texts are under the licences of the ACL Anthology.
Departs from the former: the last, shorter batch of an evaluation is kept.
In: tokens (B, 2, N), byte and 1, cut and then padded. Out: 1 if one of the two cites the other.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.lra.batch import Batch
from tasks.lra.documents import PAD, VOCAB_SIZE, Documents
from tasks.lra.retrieval.generate import Settings, generate
from tasks.lra.sources import LraData, Part, find, lines, missing, spread
from tasks.rules.labels import majority
from tasks.rules.ngrams import Overlap, threshold

OFFICIAL_ROWS = {"train": 147_086, "validation": 18_090, "test": 17_437}
FILES = {
    "train": "new_aan_pairs.train.tsv",
    "validation": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
MOST_BYTES = 10_000
"""That are read of a document, before it is cut to `max_len`."""
FITTED_PAIRS, SCORED_PAIRS = 2_000, 5_000
"""Training pairs that a rule is fitted to, and test pairs that it is scored on, if there are more.
All of AAN's would take minutes, and so the accuracy is known within 0.7 %."""
LABELS = {b"0.0": 0, b"1.0": 1, b"0": 0, b"1": 1}


class Pairs:
    """Whole batches of pairs of documents.

    Args:
        documents: Each once, however many pairs it is in.
        pairs: Which two, int64 (rows, 2).
        labels: int64 (rows,).
    """

    def __init__(self, documents: Documents, pairs: Tensor, labels: Tensor) -> None:
        self.documents, self.pairs, self.labels = documents, pairs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Batch:
        tokens = self.documents.tokens(self.pairs[rows].flatten()).unflatten(0, (len(rows), 2))
        return Batch(tokens, tokens == PAD, self.labels[rows])


class RetrievalData(LraData):
    """Pairs of documents and whether they belong together.

    Args:
        source: "generated", see `generate`; or a folder with `new_aan_pairs.{train,eval,test}.tsv`,
            which may be compressed (".gz").
        num_terms: See `generate.Settings`, for generated rows alone.
        **given: See `LraData`; `max_len` is of one document.
    """

    train: Pairs
    validation: Pairs
    test: Pairs
    task = "retrieval"
    sources = "generated or a folder with new_aan_pairs.{train,eval,test}.tsv"

    def __init__(
        self, *, source: str, max_len: int = 4000, num_terms: int = 3, **given: Any
    ) -> None:
        super().__init__(source=source, max_len=max_len, **given)
        if source == "generated":
            self.settings = Settings(max_len, num_terms)

    @property
    def dataset(self) -> str:
        """AAN, marked where it is only a part; or what is generated."""
        if self.source == "generated":
            return "pairs-synthetic"
        rows = {"train": len(self.train), "test": len(self.test)}
        is_whole = all(rows[part] == OFFICIAL_ROWS[part] for part in rows)
        return "AAN" if is_whole else "AAN-sample"

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes."""
        return {
            "vocab_size": VOCAB_SIZE,
            "num_classes": 2,
            "max_len": self.max_len,
            "num_documents": 2,
            "grid": None,
        }

    def _read(self) -> None:
        folder = Path(self.source)
        files = {part: find(folder, name) for part, name in FILES.items()}
        for part, path in files.items():
            if path is None:
                raise missing(folder, [FILES[part], f"{FILES[part]}.gz"])
            pairs = read(path, self.max_len)
            count = self.num_train if part == "train" else self.num_eval
            chosen = spread(len(pairs), count)
            setattr(self, part, Pairs(pairs.documents, pairs.pairs[chosen], pairs.labels[chosen]))

    def trivial_scores(self) -> dict[str, dict[str, float]]:
        """The most frequent label, and a bound on how many runs of bytes two documents share."""
        fitted = spread(len(self.train), FITTED_PAIRS)
        documents = self.train.documents
        numbers = self.train.pairs[fitted].unique().tolist()
        overlap = Overlap(documents[number] for number in numbers)

        def scores(rows: Pairs, chosen: Tensor) -> np.ndarray:
            pairs = rows.pairs[chosen].tolist()
            return np.array([overlap(rows.documents[a], rows.documents[b]) for a, b in pairs])

        scored = spread(len(self.test), SCORED_PAIRS)
        found = {
            "majority": majority(self.train.labels, self.test.labels),
            "shared 6-grams of bytes": threshold(
                scores(self.train, fitted),
                self.train.labels[fitted],
                scores(self.test, scored),
                self.test.labels[scored],
            ),
        }
        return {rule: {"accuracy": score} for rule, score in found.items()}

    def _generated(self, part: Part, seed: int, num_rows: int) -> Pairs:
        texts, labels = generate(seed, num_rows, self.settings)
        documents = [text.tobytes() for text in texts.reshape(-1, self.max_len)]
        pairs = torch.arange(2 * num_rows).view(num_rows, 2)
        return Pairs(Documents(documents, self.max_len), pairs, torch.from_numpy(labels))


def read(path: Path, max_len: int) -> Pairs:
    """The pairs of one file: label, two names and two texts a line, without header or quoting.

    Raises:
        ValueError: Naming file and line, if one is not so.
    """
    most = min(max_len, MOST_BYTES)
    numbers: dict[bytes, int] = {}  # papers are in many pairs
    pairs, labels = [], []
    for line_number, line in lines(path):
        where = f"{path}, line {line_number}"
        fields = line.split(b"\t")
        if len(fields) != 5:
            raise ValueError(
                f"{where}: expected 5 fields (label, id1, id2, text1, text2), got {len(fields)}"
            )
        label, *names, first, second = fields
        if label not in LABELS:
            shown = label[:20].decode(errors="replace")
            raise ValueError(f"{where}: expected a label 0.0 or 1.0, got {shown!r}")
        for name, text in zip(names, (first, second), strict=True):
            if not text:
                raise ValueError(f"{where}: the text of {name.decode(errors='replace')!r} is empty")
        labels.append(LABELS[label])
        pairs.append([numbers.setdefault(text[:most], len(numbers)) for text in (first, second)])
    return Pairs(Documents(list(numbers), max_len), torch.tensor(pairs), torch.tensor(labels))
