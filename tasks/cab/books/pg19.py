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
ROWS_AT_ONCE = 16
"""Books of a parquet file that are in memory together."""


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
        source: "hub", or a folder with train, validation and test in one of these forms, of which
            the first that is there is read: `<split>.parquet` with a column `text`, or its parts
            `<split>-00000-of-00002.parquet` and so on, or text files `<split>/*.txt`, one per book,
            in UTF-8. A text is taken as it is; a byte order mark is none of it.

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
        return Texts({f"{HUB}, {split}": lambda: _hub_rows(split)})


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
    """The texts of several tables, which can be read more than once.

    Args:
        tables: How to open each, by the name that a message gives it.
    """

    def __init__(self, tables: Mapping[str, Callable[[], Iterable[Any]]]) -> None:
        self.tables = tables

    def __iter__(self) -> Iterator[str]:
        for name, rows in self.tables.items():
            try:
                for number, text in enumerate(rows(), start=1):
                    if not isinstance(text, str):
                        raise ValueError(f"{name}: no text in row {number}")
                    yield text
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


def _hub_rows(split: str) -> Iterator[Any]:
    for row in _ask(lambda: load_dataset(HUB, split=split)):
        yield row["text"]


def _files(folder: Path, split: str) -> list[Path]:
    parquet = _parquet(folder, split)
    for path in parquet:
        _check_parquet(path)
    # Not what a file system leaves beside them: "._book.txt" is no book.
    files = parquet or sorted(
        path for path in (folder / split).glob("[!.]*") if path.suffix.lower() == ".txt"
    )
    if not files:
        raise ValueError(
            f"missing file {folder / split}.parquet (or {folder / split}/*.txt): the folder must "
            "hold train, validation and test in one of these forms"
        )
    return files


def _parquet(folder: Path, split: str) -> list[Path]:
    """The one file of a split, or its parts as `datasets` names them: no other that begins so."""
    whole = folder / f"{split}.parquet"
    digits = "[0-9]" * 5
    parts = sorted(folder.glob(f"{split}-{digits}-of-{digits}.parquet"))
    if not parts:
        return [whole] if whole.is_file() else []
    if whole.is_file():
        raise ValueError(f"both {whole} and its part {parts[0].name} are there: leave one of them")
    count = int(parts[0].stem[-5:])
    wanted = [folder / f"{split}-{i:05}-of-{count:05}.parquet" for i in range(count)]
    if parts != wanted:
        odd = min(set(parts) ^ set(wanted))
        raise ValueError(
            f"{odd} is {'one too many' if odd in parts else 'missing'}: the {split} "
            f"books are in {count} parts"
        )
    return parts


def _check_parquet(path: Path) -> None:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error
    if (count := schema.names.count("text")) != 1:
        raise ValueError(
            f"{path} has {count or 'no'} column 'text', it has: {', '.join(schema.names)}"
        )
    if not num_rows:
        raise ValueError(f"{path} is empty: it has no rows")


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix != ".parquet":
        # Bytes: a file opened as text has its line breaks changed.
        yield path.read_bytes().decode("utf-8-sig")
        return
    # Not by `datasets`, which tells a host of the hub of every file that it loads.
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=["text"]):
            yield from batch.column("text").to_pylist()
