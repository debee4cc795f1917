"""Books to streams of tokens: what is kept of the text, the cache, and every bad folder."""

import multiprocessing
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tasks.cab.books import pg19, streams
from tasks.cab.books.generate import write_books
from tasks.cab.books.streams import Library, make_tokenizer, read
from tasks.cache import publish

SPLITS = ("train", "validation", "test")
TEXTS = {
    "train": [f"Line {i}\nof a book\r\n\n  that {'goes ' * i}on.\n" for i in range(20)],
    "validation": ["zqzqzqzq naïve “quoted” 🙂\n", ""],
    "test": ["A book that says <|endoftext|> and goes on.", "Another."],
}


def write_parquet(folder: Path, texts: dict[str, list[str]], column: str = "text") -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in texts.items():
        table = pyarrow.table({"short_book_title": ["?"] * len(rows), column: rows})
        pyarrow.parquet.write_table(table, folder / f"{split}.parquet")
    return folder


def write_text(folder: Path, texts: dict[str, list[str]]) -> Path:
    for split, rows in texts.items():
        (folder / split).mkdir(parents=True)
        for i, text in enumerate(rows):
            (folder / split / f"{i:03}.txt").write_bytes(text.encode())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "books", TEXTS)


def library(folder: Path, vocab_size: int = 300, tokenizer: str | None = None) -> Library:
    cache = str(folder.parent / "cache")
    return read(str(folder), tokenizer=tokenizer, vocab_size=vocab_size, cache_dir=cache)


def decoded(folder: Path, tokens: np.ndarray) -> list[str]:
    """The texts between the marks."""
    tokenizer = make_tokenizer(TEXTS["train"], None, 300, folder.parent / "tokenizers")
    end = tokenizer.token_to_id(streams.END_OF_BOOK)
    ends = np.flatnonzero(tokens == end)
    assert ends[-1] == len(tokens) - 1
    return [
        tokenizer.decode(book[:-1].tolist(), skip_special_tokens=False)
        for book in np.split(tokens, ends[:-1] + 1)
    ]


def test_every_book_comes_back_unchanged_and_in_order(folder: Path) -> None:
    read_back = library(folder)
    for split in SPLITS:
        stream = getattr(read_back, split)
        assert decoded(folder, stream.tokens) == TEXTS[split]
        assert stream.num_books == len(TEXTS[split])
        assert stream.num_bytes == sum(len(text.encode()) for text in TEXTS[split])
    assert read_back.vocab_size == 299  # the training books have no more pairs


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_files_give_the_streams_of_parquet_files(
    folder: Path, tmp_path: Path, mark: bytes
) -> None:
    in_text = write_text(tmp_path / "text", TEXTS)
    for path in list(in_text.glob("*/*.txt")):
        path.write_bytes(mark + path.read_bytes())
        path.rename(path.with_suffix(".TXT"))
        (path.parent / f"._{path.name}").write_bytes(b"\xff")  # of a foreign file system
    as_text, as_parquet = library(in_text), library(folder)
    for split in SPLITS:
        expected = getattr(as_parquet, split).tokens
        np.testing.assert_array_equal(getattr(as_text, split).tokens, expected)


def test_several_files_of_a_split_are_read_in_order(folder: Path) -> None:
    for i, half in enumerate((TEXTS["train"][:7], TEXTS["train"][7:])):
        write_parquet(folder, {f"train-0000{i}-of-00002": half})
    (folder / "train.parquet").unlink()
    assert decoded(folder, library(folder).train.tokens) == TEXTS["train"]


def test_a_file_that_only_begins_like_a_split_is_not_read(folder: Path) -> None:
    expected = library(folder).test.tokens.copy()
    write_parquet(folder, {"test_old": ["Old."], "test2": ["Two."], "test-copy": ["Copy."]})
    np.testing.assert_array_equal(library(folder).test.tokens, expected)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train", "train-00000-of-00001"], r"train\.parquet and its part train-00000-of-00001"),
        (["train-00001-of-00002"], r"train-00000-of-00002\.parquet is missing: .* in 2 parts"),
        (
            ["train-00000-of-00001", "train-00000-of-00002"],
            r"train-00000-of-00002\.parquet is one too many: .* in 1 parts",
        ),
    ],
)
def test_parts_that_are_not_one_split_are_named(
    folder: Path, names: list[str], message: str
) -> None:
    (folder / "train.parquet").unlink()
    write_parquet(folder, dict.fromkeys(names, TEXTS["train"]))
    with pytest.raises(ValueError, match=message):
        library(folder)


def test_a_folder_is_read_without_a_network(folder: Path, look_ups: list[object]) -> None:
    library(folder)
    assert not look_ups


def test_the_tokenizer_knows_the_training_books_only(folder: Path) -> None:
    before = library(folder)
    changed = {**TEXTS, "validation": ["zqzq " * 500], "test": ["other words " * 500]}
    after = library(write_parquet(folder, changed))
    np.testing.assert_array_equal(before.train.tokens, after.train.tokens)
    # "zq" is in no training book: each of its 2,000 letters is a token by itself.
    assert len(after.validation.tokens) >= 2000


def test_streams_are_kept_until_a_book_or_the_tokenizer_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = library(folder)
    with monkeypatch.context() as patch:
        patch.setattr(streams, "encode", None)
        again = library(folder)
        np.testing.assert_array_equal(first.test.tokens, again.test.tokens)
        assert again.test.num_bytes == first.test.num_bytes
        for change in (lambda: library(folder, vocab_size=290), lambda: changed_book(folder)):
            with pytest.raises(TypeError, match="not callable"):
                change()


def changed_book(folder: Path) -> Library:
    return library(write_parquet(folder, {**TEXTS, "test": ["A book that says <|endoftext|>."]}))


def test_a_tokenizer_file_is_known_by_its_content(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokens = []
    for vocab_size in (300, 270):
        made = make_tokenizer(TEXTS["train"], None, vocab_size, tmp_path / "tokenizers")
        path.write_text(made.to_str())
        tokens.append(library(folder, tokenizer=str(path)).train.tokens)
    assert len(tokens[0]) < len(tokens[1])
    np.testing.assert_array_equal(tokens[0], library(folder).train.tokens)


def read_and_report(folder: Path, results: "multiprocessing.SimpleQueue[int]") -> None:
    results.put(int(library(folder).train.tokens.astype(np.int64).sum()))


@pytest.mark.slow
def test_processes_that_tokenise_at_once_agree_and_leave_nothing_behind(tmp_path: Path) -> None:
    texts = {split: write_books(300, words_per_book=9, book_len=99, seed=0) for split in SPLITS}
    folder = write_parquet(tmp_path / "books", texts)
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    workers = [context.Process(target=read_and_report, args=(folder, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert results.get() == results.get()
    assert [path.name[0] == "." for path in (tmp_path / "cache" / "books").iterdir()] == [False]


def test_the_loser_of_a_race_takes_what_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process publishes the same folder while this one writes its draft."""
    expected = library(folder).train.tokens.copy()
    kept = folder.parent / "cache" / "books"
    aside = shutil.move(kept, folder.parent / "aside")
    write = streams._write

    def write_and_lose(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        shutil.copytree(aside, kept, dirs_exist_ok=True)

    monkeypatch.setattr(streams, "_write", write_and_lose)
    np.testing.assert_array_equal(library(folder).train.tokens, expected)
    assert len(list(kept.iterdir())) == 1


def test_a_full_disk_leaves_no_streams(tmp_path: Path) -> None:
    def write_a_part(draft: Path) -> None:
        (draft / "train.npy").write_bytes(b"...")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path / "kept", write_a_part)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, "uint16"), (2**16 + 1, "uint32")])
def test_streams_hold_every_token_number(vocab_size: int, dtype: str) -> None:
    file = BytesIO()
    pieces = [np.array([0, vocab_size - 1]), np.arange(5), np.arange(0)]
    streams._write_stream(pieces, vocab_size, file)
    file.seek(0)
    stream = np.load(file)
    assert stream.dtype == dtype
    np.testing.assert_array_equal(stream, np.concatenate(pieces))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hub or a folder of books; '.*nowhere' is not there"):
        library(tmp_path / "nowhere")


def test_a_missing_split_is_named(folder: Path) -> None:
    (folder / "test.parquet").unlink()
    with pytest.raises(ValueError, match=r"missing file .*books/test\.parquet \(or .*test/\*\.txt"):
        library(folder)


def test_a_missing_column_is_named_with_those_there(folder: Path) -> None:
    write_parquet(folder, {"validation": ["a"]}, column="body")
    message = r"validation\.parquet has no column 'text', it has: short_book_title, body"
    with pytest.raises(ValueError, match=message):
        library(folder)


def test_an_empty_parquet_file_is_named(folder: Path) -> None:
    write_parquet(folder, {"test": []})
    with pytest.raises(ValueError, match=r"test\.parquet is empty: it has no rows"):
        library(folder)


def test_a_doubled_column_is_named(folder: Path) -> None:
    table = pyarrow.Table.from_arrays([["a"], ["b"]], ["text", "text"])
    pyarrow.parquet.write_table(table, folder / "test.parquet")
    with pytest.raises(ValueError, match=r"test\.parquet has 2 column 'text', it has: text, text"):
        library(folder)


def test_a_split_without_text_is_named(folder: Path) -> None:
    write_parquet(folder, {"test": ["", ""]})
    with pytest.raises(ValueError, match="the test books are empty"):
        library(folder)


def test_a_row_without_text_is_named(folder: Path) -> None:
    table = pyarrow.table({"text": pyarrow.array(["a", None])})
    pyarrow.parquet.write_table(table, folder / "test.parquet")
    with pytest.raises(ValueError, match=r"test\.parquet: no text in row 2"):
        library(folder)


def test_a_file_that_is_not_parquet_is_named(folder: Path) -> None:
    (folder / "train.parquet").write_bytes(b"PAR1, but no more")
    with pytest.raises(ValueError, match=r"train\.parquet is not a parquet file"):
        library(folder)


def test_a_parquet_file_with_damaged_pages_is_named(folder: Path) -> None:
    path = folder / "test.parquet"
    content = bytearray(path.read_bytes())
    content[4:80] = b"\xff" * 76  # the footer, at the end, stays whole
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"test\.parquet cannot be read"):
        library(folder)


def test_a_text_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    folder = write_text(tmp_path / "text", TEXTS)
    (folder / "validation" / "001.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(ValueError, match=r"001\.txt cannot be read"):
        library(folder)


def test_the_hub_that_cannot_be_reached_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'emozilla/pg19' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(pg19, "load_dataset_builder", offline)
    with pytest.raises(ValueError, match="cannot get emozilla/pg19 from the Hugging Face hub"):
        read("hub", tokenizer=None, vocab_size=300, cache_dir=str(tmp_path))


def test_generated_books_keep_to_few_words_of_one_lexicon() -> None:
    written = write_books(200, words_per_book=4, book_len=100, seed=0)
    words = [book.split() for book in written]
    assert {len(book) for book in words} == {100}
    assert {len(set(book)) for book in words} == {4}  # one word is missed in 4e-12 of the books
    assert len(set().union(*words)) == 64
    assert written == write_books(200, words_per_book=4, book_len=100, seed=0)
    assert written != write_books(200, words_per_book=4, book_len=100, seed=1)


def test_real_books_come_back_unchanged_from_both_forms(real_data: Path, tmp_path: Path) -> None:
    """A book of the sample, whose files keep both forms."""
    sample = real_data / "pg19_like"
    if not sample.is_dir():
        pytest.skip(f"no {sample}")
    folder = tmp_path / "text"
    for split in SPLITS:
        first = sorted((sample / split).glob("*.txt"))[-1]
        (folder / split).mkdir(parents=True)
        shutil.copy(first, folder / split)
    tokenizer = make_tokenizer(
        [path.read_text() for path in (folder / "train").iterdir()], None, 500, tmp_path / "made"
    )
    as_text = read(str(folder), tokenizer=None, vocab_size=500, cache_dir=str(tmp_path))
    in_parquet = pg19.find(str(sample))
    for split in SPLITS:
        text = tokenizer.decode(getattr(as_text, split).tokens[:-1].tolist())
        assert text in set(in_parquet.texts(split))
