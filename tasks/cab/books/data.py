"""What the data of both language-modelling tasks share: a library, read once."""

from typing import Any

from tasks.cab.books.streams import Library, generate, read
from tasks.data import TaskData

OFFICIAL_TRAIN_BOOKS = 28_602
RULE_TOKENS = 10_000_000
"""Training tokens whose frequencies the rule takes."""


class BooksData(TaskData):
    """A library, and what is asked of its books.

    Args:
        source: "generated", or see `tasks.cab.books.streams.read`, as for `cache_dir`.
        tokenizer: See `tasks.cab.books.streams.make_tokenizer`, as `vocab_size`.
        line_marks: See `tasks.cab.books.streams.encode`.
        words_per_line: Of generated books; None leaves each in one line.
        **loading: See `TaskData`.
    """

    def __init__(
        self,
        *,
        source: str,
        tokenizer: str | None = None,
        vocab_size: int,
        line_marks: bool = False,
        words_per_line: int | None = None,
        cache_dir: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.source = source
        self.settings = {
            "vocab_size": vocab_size,
            "line_marks": line_marks,
            "cache_dir": cache_dir,
        }
        self.tokenizer, self.words_per_line = tokenizer, words_per_line
        self.library: Library | None = None

    @property
    def dataset(self) -> str:
        """PG-19, marked where it is only a part; or what is generated."""
        if self.source == "generated":
            return "books-synthetic"
        is_complete = self.books.train.num_books == OFFICIAL_TRAIN_BOOKS
        return "PG-19" if is_complete else "PG-19-sample"

    @property
    def books(self) -> Library:
        """The library, once it is read."""
        if self.library is None:
            raise RuntimeError("call setup first")
        return self.library

    def prepare_data(self) -> None:
        """Tokenise the books, in one process of each machine."""
        self.library = self.library or self._read()

    def _read(self) -> Library:
        if self.source == "generated":
            return generate(words_per_line=self.words_per_line, **self.settings)
        return read(self.source, tokenizer=self.tokenizer, **self.settings)
