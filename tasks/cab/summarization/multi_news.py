"""Multi-News as text: from the hub, from parquet, or from the raw lines of its release.

Source: Fabbri et al., "Multi-News", ACL 2019, arXiv:1906.01749, and huggingface.co/datasets/
alexfabbri/multi_news; for non-commercial research and education only.
All three ways give the same text: the articles of an item joined by ` ||||| `, without empty ones,
runs of white space folded into one, line breaks kept in documents and not in summaries.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow
import pyarrow.parquet
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Sequence,
    Value,
    concatenate_datasets,
    load_dataset,
)
from tokenizers import Tokenizer

HUB = "alexfabbri/multi_news"
# The repository itself holds a loading script, which `datasets` no longer runs; the hub keeps its
# result in this branch.
HUB_REVISION = "refs/convert/parquet"
SPLITS = ("train", "validation", "test")
COLUMNS = ("document", "summary")
OFFICIAL_TRAIN_ROWS = 44_972
CODE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
"""Handed to what `datasets` keeps: it knows a function by its name alone, also when it changes."""


def read(source: str) -> dict[str, Dataset]:
    """The splits, with the string columns `document` and `summary`.

    Args:
        source: "hub", or a folder with `<split>.parquet`, or with `<split>.src.cleaned` (or `.src`)
            and `<split>.tgt`, in UTF-8; the split names are train, validation or val, test.

    Raises:
        ValueError: If a file is missing, there twice, malformed or empty, or a split has no text;
            the message names it.
    """
    read_split = _from_hub if source == "hub" else _reader(Path(source))
    splits = {}
    for split in SPLITS:
        rows = read_split(split).map(_normalise, batched=True, fn_kwargs={"code": CODE})
        for column in COLUMNS:
            if not any(rows[column]):
                raise ValueError(f"{source}: every {column} of {split} is empty")
        splits[split] = rows
    return splits


def texts(rows: Dataset) -> Iterable[str]:
    """All documents, then all summaries."""
    columns = (rows.select_columns(name).rename_column(name, "text") for name in COLUMNS)
    return concatenate_datasets(list(columns))["text"]


def tokenize(
    rows: Dataset, tokenizer: Tokenizer, end: str, max_source_len: int, max_target_len: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Documents and summaries as token numbers end to end (int32), and where each ends (int64).

    Every row ends with the token `end`, unless it was cut. `datasets` keeps the result.
    """
    encoded = rows.map(
        _encode,
        batched=True,
        remove_columns=list(COLUMNS),
        features=Features({name: Sequence(Value("int32")) for name in COLUMNS}),
        fn_kwargs={
            "tokenizer": tokenizer,
            "end": tokenizer.token_to_id(end),
            "max_lens": {"document": max_source_len, "summary": max_target_len},
            "code": CODE,
        },
    ).with_format("arrow")
    columns = []
    for name in COLUMNS:
        column = pyarrow.chunked_array(encoded[:][name]).combine_chunks()
        lengths = column.value_lengths().to_numpy()
        columns.append((column.flatten().to_numpy().copy(), np.cumsum(lengths, dtype=np.int64)))
    return columns


def join_articles(document: str) -> str:
    """One item's articles, however they were separated and wrapped, in the one form."""
    lines = document.replace("NEWLINE_CHAR", "\n")
    articles = (re.sub(r"[^\S\n]+", " ", article).strip() for article in lines.split("|||||"))
    return " ||||| ".join(article for article in articles if article)


def _normalise(rows: dict[str, list[str]], code: str) -> dict[str, list[str]]:
    return {
        "document": [join_articles(document) for document in rows["document"]],
        "summary": [" ".join(summary.split()) for summary in rows["summary"]],
    }


def _encode(
    rows: dict[str, list[str]],
    tokenizer: Tokenizer,
    end: int,
    max_lens: dict[str, int],
    code: str,
) -> dict[str, list[list[int]]]:
    return {
        name: [
            [*encoding.ids, end][: max_lens[name]]
            for encoding in tokenizer.encode_batch(rows[name], add_special_tokens=False)
        ]
        for name in COLUMNS
    }


def _from_hub(split: str) -> Dataset:
    try:
        loaded = cast(DatasetDict, load_dataset(HUB, revision=HUB_REVISION))
    except OSError as error:  # no connection, or not found: both are OSErrors here
        raise ValueError(
            f"cannot get {HUB} from the Hugging Face hub ({str(error).splitlines()[0]}); "
            "data.source may also be a folder with train, validation and test as .parquet, or as "
            ".src and .tgt"
        ) from error
    return loaded[split]


def _reader(folder: Path) -> Callable[[str], Dataset]:
    if not folder.is_dir():
        raise ValueError(
            f"data.source must be generated, hub or a folder with Multi-News; {str(folder)!r} is "
            f"{'a file' if folder.exists() else 'not there'}"
        )
    if any(folder.glob("*.parquet")):
        return lambda split: _from_parquet(_find(folder, split, ".parquet"))
    return lambda split: _from_lines(
        _find(folder, split, ".src.cleaned", ".src"), _find(folder, split, ".tgt")
    )


def _find(folder: Path, split: str, *endings: str) -> Path:
    names = ("validation", "val") if split == "validation" else (split,)
    for ending in endings:
        paths = [folder / f"{name}{ending}" for name in names]
        found = [path for path in paths if path.is_file()]
        if len(found) > 1:
            raise ValueError(f"{found[0]} and {found[1].name} are both there: leave one of them")
        if found:
            return found[0]
    wanted = [f"{name}{ending}" for ending in endings for name in names]
    raise ValueError(
        f"missing file {folder / wanted[0]} (or {', '.join(wanted[1:])}): the folder must hold "
        "train, validation and test as .parquet, or as .src and .tgt"
    )


def _from_parquet(path: Path) -> Dataset:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is no parquet file: {error}") from error
    for column in COLUMNS:
        if (count := schema.names.count(column)) != 1:
            raise ValueError(
                f"{path} has {count or 'no'} column {column!r}; expected {' and '.join(COLUMNS)}, "
                f"found {', '.join(schema.names)}"
            )
        kind = schema.field(column).type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise ValueError(f"{path}: column {column!r} must hold strings, got {kind}")
    if not num_rows:
        raise ValueError(f"{path} is empty: it has no rows")
    split = cast(Dataset, Dataset.from_parquet(str(path), columns=list(COLUMNS)))
    for column in COLUMNS:
        if None in split[column]:
            row = list(split[column]).index(None)
            raise ValueError(f"{path}: no {column} in row {row} (counted from 0)")
    return split


def _from_lines(source: Path, target: Path) -> Dataset:
    documents, summaries = _lines(source), _lines(target)
    if len(documents) != len(summaries):
        raise ValueError(
            f"{source} has {len(documents)} lines and {target} has {len(summaries)}; expected one "
            "item on each line of both"
        )
    return Dataset.from_dict({"document": documents, "summary": summaries})


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}") from error
    # Only "\n" ends an item: news hold other characters that splitlines would split at.
    lines = text.removesuffix("\n").split("\n")
    if lines == [""]:
        raise ValueError(f"{path} is empty: it has no rows")
    return lines
