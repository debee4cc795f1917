"""Books as streams of token numbers, tokenised once and then kept.

The text is taken as it is, and its line breaks are tokens like any other; one `<|endoftext|>` ends
each book. Departs from CAB, whose recipe takes the lines without the white space around them and
adds a symbol at the end of each, which it counts in the perplexity: `line_marks` does so too.
"""

import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tokenizers import Tokenizer

from tasks.cab.books.generate import write_books
from tasks.cache import GrowingArray, cache_folder, publish
from tasks.tokenizer import published_tokenizer, train_byte_bpe

SPLITS = ("train", "validation", "test")
END_OF_BOOK = "<|endoftext|>"
BOOKS_AT_ONCE = 16
"""Tokenised side by side."""
FORMAT = 3
"""Of the kept streams; another number leaves the old ones aside."""
GENERATED = {"train": 1500, "validation": 60, "test": 60}
"""Books; the same for every seed."""


@dataclass(frozen=True)
class Stream:
    """The books of a split, one after the other.

    Attributes:
        tokens: Token numbers (tokens,).
        num_books: How many.
        num_bytes: Of their text as UTF-8.
    """

    tokens: np.ndarray
    num_books: int
    num_bytes: int


@dataclass(frozen=True)
class Library:
    """The three splits, and the tokens that they are made of.

    Attributes:
        vocab_size: How many tokens there are.
        line_ends: The numbers of those that end a line, or a book.
    """

    train: Stream
    validation: Stream
    test: Stream
    vocab_size: int
    line_ends: list[int]


def generate(
    *,
    vocab_size: int,
    line_marks: bool = False,
    words_per_line: int | None = None,
    cache_dir: str | None = None,
) -> Library:
    """Small generated books; see `tasks.cab.books.generate`, and `read` for the arguments."""
    texts = {
        split: write_books(
            num_books, words_per_book=4, book_len=100, seed=seed, words_per_line=words_per_line
        )
        for seed, (split, num_books) in enumerate(GENERATED.items())
    }
    tokenizer = make_tokenizer(
        texts["train"], None, vocab_size, cache_folder(cache_dir) / "tokenizers"
    )
    streams = {}
    for split in SPLITS:
        counted = _Counted(texts[split])
        tokens = np.concatenate(list(encode(counted, tokenizer, line_marks=line_marks)))
        streams[split] = Stream(tokens, counted.num_books, counted.num_bytes)
    return Library(**streams, **_about(tokenizer))


def read(
    source: str,
    *,
    tokenizer: str | None,
    vocab_size: int,
    line_marks: bool = False,
    cache_dir: str | None = None,
) -> Library:
    """PG-19, or books in its form. What has been tokenised before is mapped from the cache.

    Args:
        source: See `tasks.cab.books.pg19.find`.
        tokenizer: See `make_tokenizer`, as `vocab_size`.
        line_marks: See `encode`.
        cache_dir: Where the streams are kept, under a hash of the books and the tokenizer; None for
            `attnbench` in the cache of Hugging Face (HF_HOME).

    Raises:
        ValueError: If the books or the tokenizer cannot be had, or a split has no text.
    """
    # Here: `datasets` takes longer to import than a generated run to prepare.
    from tasks.cab.books.pg19 import find

    books, cache = find(source), cache_folder(cache_dir)
    settings = [FORMAT, books.digest(), tokenizer or vocab_size, _digest_of_file(tokenizer)]
    settings.append(line_marks)
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
    folder = cache / "books" / key
    if not folder.exists():
        texts = {split: books.texts(split) for split in SPLITS}
        made = make_tokenizer(texts["train"], tokenizer, vocab_size, cache / "tokenizers")
        publish(folder, lambda draft: _write(texts, made, line_marks, draft))
    about = json.loads((folder / "about.json").read_text())
    streams = {
        split: Stream(np.load(folder / f"{split}.npy", mmap_mode="r"), **about.pop(split))
        for split in SPLITS
    }
    return Library(**streams, **about)


def make_tokenizer(
    texts: Iterable[str], name: str | None, vocab_size: int, cache: Path
) -> Tokenizer:
    """The tokenizer called `name`, or byte-level BPE fitted to `texts`, the training books.

    Args:
        texts: Read more than once.
        name: One of the hub, for example `openai-community/gpt2`, or the path of a tokenizer.json;
            None to train one.
        vocab_size: Of the one that is trained.
        cache: Where that one is kept.
    """
    if name is not None:
        return published_tokenizer(name, special_tokens=[END_OF_BOOK])
    return train_byte_bpe(texts, vocab_size=vocab_size, special_tokens=[END_OF_BOOK], cache=cache)


def encode(
    texts: Iterable[str], tokenizer: Tokenizer, *, line_marks: bool = False
) -> Iterator[np.ndarray]:
    """The tokens of each book, int64, with the mark at its end.

    Args:
        line_marks: Whether the mark ends each line instead, which is stripped, as CAB's recipe has
            it; a line without text is then a mark alone.
    """
    end = tokenizer.token_to_id(END_OF_BOOK)
    books: list[str] = []

    def flush() -> Iterator[np.ndarray]:
        for encoding in tokenizer.encode_batch_fast(books, add_special_tokens=False):
            yield np.array([*encoding.ids, end])
        books.clear()

    for text in texts:
        if line_marks:
            lines = [line.strip() for line in io.StringIO(text, newline=None)]
            encoded = tokenizer.encode_batch_fast(lines, add_special_tokens=False)
            numbers = [[*encoding.ids, end] for encoding in encoded]
            yield np.array(list(itertools.chain.from_iterable(numbers)), dtype=np.int64)
            continue
        books.append(text)
        if len(books) == BOOKS_AT_ONCE:
            yield from flush()
    yield from flush()


class _Counted:
    """Counts the books that pass through, and their bytes."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts
        self.num_books = self.num_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.num_books += 1
            self.num_bytes += len(text.encode())
            yield text


def _digest_of_file(tokenizer: str | None) -> str | None:
    if tokenizer is None or not Path(tokenizer).is_file():
        return None
    return hashlib.sha256(Path(tokenizer).read_bytes()).hexdigest()


def _about(tokenizer: Tokenizer) -> dict[str, Any]:
    """The fields of a library that are not its splits."""
    vocab_size = tokenizer.get_vocab_size()
    told = tokenizer.decode_batch([[i] for i in range(vocab_size)], skip_special_tokens=False)
    marks = {tokenizer.token_to_id(END_OF_BOOK)}
    line_ends = [i for i, text in enumerate(told) if "\n" in text or i in marks]
    return {"vocab_size": vocab_size, "line_ends": line_ends}


def _write(
    texts: Mapping[str, Iterable[str]], tokenizer: Tokenizer, line_marks: bool, folder: Path
) -> None:
    about = _about(tokenizer)
    for split in SPLITS:
        counted = _Counted(texts[split])
        with (folder / f"{split}.npy").open("wb") as file:
            books = encode(counted, tokenizer, line_marks=line_marks)
            _write_stream(books, about["vocab_size"], file)
        if not counted.num_bytes:
            raise ValueError(f"the {split} books are empty: they have no text")
        about[split] = {"num_books": counted.num_books, "num_bytes": counted.num_bytes}
    (folder / "about.json").write_text(json.dumps(about))


def _write_stream(books: Iterable[np.ndarray], vocab_size: int, file: BinaryIO) -> None:
    """One .npy array of all books, which need not fit into memory together."""
    dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    stream = GrowingArray(file, dtype)
    for tokens in books:
        stream.append(tokens.astype(dtype))
    stream.finish()
