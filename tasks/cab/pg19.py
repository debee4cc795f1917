"""The texts of PG-19: from the hub, from parquet files or from text files.

Source: Rae et al., "Compressive Transformers", ICLR 2020, arXiv:1911.05507: 28,602 training, 50
validation and 100 test books, in the public domain in the United States.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow
import pyarrow.parquet
from datasets import load_dataset, load_dataset_builder

HUB = "emozilla/pg19"
"""A copy in parquet: `deepmind/pg19` is a loading script, which `datasets` no longer runs."""
SPLITS = ("train", "validation", "test")


class Books(Protocol):
    """Books in three splits."""

    def digest(self) -> str:
        """A hash of every text."""
        ...

    def texts(self, split: str) -> Iterable[str]:
        """The books of a split, which can be read more than once."""
        ...


def find(source: str) -> Books:
    """The books of "hub" or of a folder.

    Args:
        source: "hub", or a folder with train, validation and test as `<split>*.parquet` with a
            column `text`, or as text files `<split>/*.txt`, one per book.

    Raises:
        ValueError: If the hub cannot be had, or a file is missing, unreadable or empty.
    """
    return Hub() if source == "hub" else Folder(Path(source))


class Hub:
    """PG-19 in the cache of Hugging Face, downloaded (11 GB) when it is first read."""

    def digest(self) -> str:
        """The revision on the hub, as `datasets` hashes it."""
        return str(_ask(lambda: load_dataset_builder(HUB)).hash)

    def texts(self, split: str) -> Iterable[str]:
        """See `Books`."""
        return Texts({f"{HUB}, {split}": lambda: _ask(lambda: load_dataset(HUB, split=split))})


class Folder:
    """Books in files of this machine, looked at before the first is read."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(
                f"data.source must be generated, hub or a folder of books; {str(folder)!r} is "
                f"{'a file' if folder.exists() else 'not there'}"
            )
        self.files = {split: _files(folder, split) for split in SPLITS}

    def digest(self) -> str:
        """A hash of the contents of the files."""
        digest = hashlib.sha256()
        for split, files in self.files.items():
            for path in files:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{split} {path.suffix} {content}\n".encode())
        return digest.hexdigest()

    def texts(self, split: str) -> Iterable[str]:
        """See `Books`."""
        return Texts({str(path): partial(_rows, path) for path in self.files[split]})


class Texts:
    """The column `text` of several tables, which can be read more than once.

    Args:
        tables: How to open each, by the name that a message gives it.
    """

    def __init__(self, tables: Mapping[str, Callable[[], Iterable[Any]]]) -> None:
        self.tables = tables

    def __iter__(self) -> Iterator[str]:
        for name, rows in self.tables.items():
            try:
                for number, row in enumerate(rows(), start=1):
                    if not isinstance(row["text"], str):
                        raise ValueError(f"{name}: no text in row {number}")
                    yield row["text"]
            except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{name} cannot be read: {error}") from error


def _ask(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except OSError as error:  # no connection, or not found: both are OSErrors here
        raise ValueError(
            f"cannot get {HUB} from the Hugging Face hub ({str(error).splitlines()[0]}); "
            "data.source may also be a folder with train, validation and test as .parquet files "
            "or as folders of .txt files"
        ) from error


def _files(folder: Path, split: str) -> list[Path]:
    parquet = sorted(folder.glob(f"{split}*.parquet"))
    for path in parquet:
        _check_parquet(path)
    files = parquet or sorted((folder / split).glob("*.txt"))
    if not files:
        raise ValueError(
            f"missing file {folder / split}.parquet (or {folder / split}/*.txt): the folder must "
            "hold train, validation and test in one of these forms"
        )
    return files


def _check_parquet(path: Path) -> None:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error
    if "text" not in schema.names:
        raise ValueError(f"{path} has no column 'text', it has: {', '.join(schema.names)}")
    if not num_rows:
        raise ValueError(f"{path} is empty: it has no rows")


def _rows(path: Path) -> Iterable[Any]:
    if path.suffix == ".txt":
        return [{"text": path.read_text(encoding="utf-8")}]
    # Streamed, so that nothing is copied into the cache of Hugging Face.
    rows = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    return rows.select_columns("text")
