"""ListOps: rows that are generated, or read from the files of a release.

Source: Tay et al., "Long Range Arena", ICLR 2021, arXiv:2011.04006; Nangia and Bowman, "ListOps",
NAACL SRW 2018, arXiv:1804.06028.
Departs from the former: a fixed table of tokens, and no expression in two parts of the data even
where they are short.
In: tokens (B, N). Out: one of ten classes, the value of the expression.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.lra.batch import Batch
from tasks.lra.listops import expressions
from tasks.lra.listops.generate import VERSION, Settings, generate
from tasks.lra.sources import LraData, Part, find, lines, missing, spread
from tasks.rules.labels import lookup, majority
from tasks.rules.nesting import shallow
from tasks.shards import Shards

OFFICIAL_ROWS = {"train": 96_000, "validation": 2_000, "test": 2_000}
HEADER = b"Source\tTarget"
ALL_DIFFER = 100
"""Longer expressions do not come twice; shorter ones are kept in one part of the data."""
FITTED_ROWS = 4096
"""Training rows that the rules are fitted to: the others need not have been made yet."""
NESTING = (1, 2, 3, 4)
"""How far down the rules read, where there is more below."""
FILES = {
    "train": ("basic_train.tsv", "train.tsv", "train_d20s.tsv"),
    "validation": ("basic_val.tsv", "val.tsv", "validation.tsv"),
    "test": ("basic_test.tsv", "test.tsv", "test_d20s.tsv"),
}

Arrays = Mapping[str, np.ndarray]


class Table:
    """Rows in memory, read as those of `Shards` are."""

    in_order_first = False

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays["labels"])

    def __getitem__(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array[rows.numpy()]) for name, array in self.arrays.items()}


class Expressions:
    """Whole batches of expressions."""

    def __init__(self, table: Shards | Table) -> None:
        self.table = table
        self.in_order_first = table.in_order_first

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: Tensor) -> Batch:
        found = self.table[rows]
        tokens = found["tokens"].long()
        return Batch(tokens, tokens == expressions.PAD, found["labels"].long())


class ListopsData(LraData):
    """Expressions and what they come to.

    Args:
        source: "generated"; or a folder with a file for each part, Long Range Arena's
            `basic_{train,val,test}.tsv` or Nangia and Bowman's `{train,test}_d20s.tsv`, whose last
            tenth of the training rows is for validation; or one such file, whose last two tenths
            are for validation and test. All of them may be compressed (".gz").
        min_len: See `generate.Settings`, as `max_len`, `max_depth` and `max_args`; for generated
            rows alone. A row that is read may have `max_len` tokens.
        **given: See `LraData`.
    """

    train: Expressions
    validation: Expressions
    test: Expressions
    task = "listops"
    sources = "generated, a folder with basic_{train,val,test}.tsv, or a .tsv file"

    def __init__(
        self,
        *,
        source: str = "generated",
        max_len: int = 2000,
        min_len: int = 500,
        max_depth: int = 10,
        max_args: int = 10,
        **given: Any,
    ) -> None:
        super().__init__(source=source, max_len=max_len, **given)
        self.settings = Settings()
        if source == "generated":
            self.settings = Settings(min_len, max_len, max_depth, max_args)

    @property
    def dataset(self) -> str:
        """Its name: with lengths where they are not those of the benchmark."""
        of = self.settings
        if of != Settings():
            name = f"ListOps-L{of.min_len}-{of.max_len}"
            name += f"-D{of.max_depth}" if of.max_depth != Settings.max_depth else ""
            return name + (f"-A{of.max_args}" if of.max_args != Settings.max_args else "")
        rows = {"train": len(self.train), "test": len(self.test)}
        is_whole = all(rows[part] >= OFFICIAL_ROWS[part] for part in rows)
        return "ListOps" if is_whole else "ListOps-sample"

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes."""
        return {
            "vocab_size": expressions.VOCAB_SIZE,
            "num_classes": expressions.NUM_CLASSES,
            "max_len": self.max_len,
            "num_documents": 1,
            "grid": None,
        }

    def _read(self) -> None:
        read = read_parts(Path(self.source), self.max_len)
        for part, arrays in read.items():
            count = self.num_train if part == "train" else self.num_eval
            rows = spread(len(arrays["labels"]), count).numpy()
            chosen = {name: array[rows] for name, array in arrays.items()}
            setattr(self, part, Expressions(Table(chosen)))

    def trivial_scores(self) -> dict[str, dict[str, float]]:
        """The most frequent label, of all and of the root's operator; the digits further up."""
        train = self.train.table[torch.arange(min(FITTED_ROWS, len(self.train)))]
        test = self.test.table[torch.arange(len(self.test))]
        train_labels, test_labels = train["labels"].long(), test["labels"].long()
        first = [part["tokens"][:, 0].long() for part in (train, test)]
        scores = {
            "majority": majority(train_labels, test_labels),
            "first token": lookup(first[0], train_labels, first[1], test_labels),
        }
        usual = int(train_labels.bincount().argmax())
        deepest = int(expressions.nesting(test["tokens"].numpy()).max())
        for depth in filter(deepest.__gt__, NESTING):
            scores[f"digits to nesting {depth}"] = shallow(
                test["tokens"], test_labels, max_nesting=depth, otherwise=usual
            )
        return {rule: {"accuracy": score} for rule, score in scores.items()}

    def _generated(self, part: Part, seed: int, num_rows: int) -> Expressions:
        settings = self.settings
        if settings.min_len < ALL_DIFFER:
            settings = dataclasses.replace(settings, part=part)
        shards = Shards(
            "listops",
            version=VERSION,
            settings=dataclasses.asdict(settings),
            seed=seed,
            num_rows=num_rows,
            fields={
                "tokens": ((self.max_len,), "uint8"),
                "lengths": ((), "uint16"),
                "labels": ((), "uint8"),
            },
            make=functools.partial(_make, settings=settings),
            cache_dir=self.cache_dir,
        )
        return Expressions(shards)


def _make(seed: Sequence[int], count: int, settings: Settings) -> Arrays:
    return generate(seed, count, settings)._asdict()


def read_parts(path: Path, max_len: int) -> dict[str, Arrays]:
    """The parts of a release; see `ListopsData`."""
    if path.is_file():
        whole = read(path, max_len)
        count = len(whole["labels"])
        return _cut(whole, train=count * 8 // 10, validation=count * 9 // 10, test=count)
    files = {part: find(path, *names) for part, names in FILES.items()}
    for part in ("train", "test"):
        if files[part] is None:
            raise missing(path, FILES[part])
    read_files = {part: read(file, max_len) for part, file in files.items() if file is not None}
    if "validation" not in read_files:
        count = len(read_files["train"]["labels"])
        read_files |= _cut(read_files["train"], train=count * 9 // 10, validation=count)
    return read_files


def _cut(arrays: Arrays, **ends: int) -> dict[str, Arrays]:
    begin, parts = 0, {}
    for part, end in ends.items():
        parts[part] = {name: array[begin:end] for name, array in arrays.items()}
        begin = end
    return parts


def read(path: Path, max_len: int) -> Arrays:
    """The rows of one file: `tokens` and `labels`, each expression evaluated to its target.

    Args:
        path: With the header `Source Target` and the expression first, as in Long Range Arena, or
            without a header and the target first, as Nangia and Bowman's.
        max_len: The most tokens of an expression.

    Raises:
        ValueError: Naming file and line, if one is not an expression and its value.
    """
    rows: list[np.ndarray] = []
    labels: list[int] = []
    numbers: list[int] = []
    has_header = False
    for number, line in lines(path):
        if number == 1 and line == HEADER:
            has_header = True
            continue
        try:
            source, label = _fields(line, expression_first=has_header)
            rows.append(_parse(source, max_len))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        labels.append(label)
        numbers.append(number)
    if not rows:
        raise ValueError(f"{path} has no rows behind its header")
    tokens = np.zeros((len(rows), max_len), dtype=np.uint8)
    for row, found in zip(tokens, rows, strict=True):
        row[: len(found)] = found
    values = expressions.evaluate(tokens)
    if (wrong := np.flatnonzero(values != labels)).size:
        first = wrong[0]
        raise ValueError(
            f"{path}, line {numbers[first]}: the target is {labels[first]}, the expression comes "
            f"to {values[first]}"
        )
    lengths = np.array([len(row) for row in rows], dtype=np.uint16)
    return {"tokens": tokens, "lengths": lengths, "labels": np.array(labels, dtype=np.uint8)}


def _fields(line: bytes, *, expression_first: bool) -> tuple[bytes, int]:
    fields = line.split(b"\t")
    if len(fields) != 2:
        raise ValueError(f"expected 2 fields, an expression and its target, got {len(fields)}")
    expression, target = fields if expression_first else reversed(fields)
    if not (target.isdigit() and len(target) == 1):
        raise ValueError(
            f"expected a target of 0 to 9 in the {'second' if expression_first else 'first'} "
            f"field, got {target[:20].decode(errors='replace')!r}"
        )
    return expression, int(target)


def _parse(text: bytes, max_len: int) -> np.ndarray:
    tokens = expressions.parse(text)
    if len(tokens) > max_len:
        raise ValueError(f"the expression has {len(tokens)} tokens, more than max_len {max_len}")
    return tokens
