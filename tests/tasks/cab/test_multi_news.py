"""Multi-News from every form it comes in, and from files that are not it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets.config
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset, DatasetDict

from tasks.cab.summarization import multi_news
from tasks.cab.summarization.data import SummarizationData
from tasks.cab.summarization.documents import IGNORED

SPLITS = ("train", "validation", "test")
ROWS = {
    split: {
        "document": [f"{split} {n} says\n \n a lot. ||||| And  {n}\tmore." for n in range(3)],
        "summary": [f"{split}:\n the {n}." for n in range(3)],
    }
    for split in SPLITS
}
TEXTS = {
    split: {
        "document": [f"{split} {n} says\n \n a lot. ||||| And {n} more." for n in range(3)],
        "summary": [f"{split}: the {n}." for n in range(3)],
    }
    for split in SPLITS
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the tests stays in the user's cache, and nothing of it enters them."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(folder))


def write_parquet(folder: Path, **changes: dict[str, list[Any]]) -> Path:
    for split, rows in {**ROWS, **changes}.items():
        pyarrow.parquet.write_table(pyarrow.table(rows), folder / f"{split}.parquet")
    return folder


def write_lines(folder: Path, validation: str = "validation", source: str = ".src") -> Path:
    for split, rows in ROWS.items():
        name = validation if split == "validation" else split
        documents = [d.replace("\n", "NEWLINE_CHAR") + " |||||" for d in rows["document"]]
        summaries = [" ".join(summary.split()) for summary in rows["summary"]]
        (folder / f"{name}{source}").write_text("".join(d + "\n" for d in documents))
        (folder / f"{name}.tgt").write_text("".join(s + "\n" for s in summaries))
    return folder


def read(source: Path | str) -> dict[str, dict[str, list[str]]]:
    return {
        split: {name: list(rows[name]) for name in rows.column_names}
        for split, rows in multi_news.read(str(source)).items()
    }


def data(folder: Path, **settings: Any) -> SummarizationData:
    sizes: dict[str, Any] = {"max_source_len": 64, "max_target_len": 32, "vocab_size": 300}
    sizes["batch_size"] = 2
    built = SummarizationData(source=str(folder), **(sizes | settings))
    built.setup()
    return built


def test_parquet(tmp_path: Path) -> None:
    assert read(write_parquet(tmp_path)) == TEXTS


@pytest.mark.parametrize(
    ("validation", "source"), [("validation", ".src"), ("val", ".src.cleaned"), ("val", ".src")]
)
def test_raw_lines(tmp_path: Path, validation: str, source: str) -> None:
    assert read(write_lines(tmp_path, validation, source)) == TEXTS


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, revision: str) -> DatasetDict:
        assert (name, revision) == ("alexfabbri/multi_news", "refs/convert/parquet")
        return DatasetDict({split: Dataset.from_dict(rows) for split, rows in ROWS.items()})

    monkeypatch.setattr(multi_news, "load_dataset", load)
    assert read("hub") == TEXTS


def test_a_hub_out_of_reach_is_told_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, revision: str) -> DatasetDict:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(multi_news, "load_dataset", load)
    with pytest.raises(ValueError, match=r"cannot get alexfabbri.*no route to host.*a folder with"):
        multi_news.read("hub")


def test_the_real_sample_reads_the_same_from_parquet_and_from_lines(
    real_data: Path, tmp_path: Path
) -> None:
    folder = real_data / "multi_news"
    for path in [*folder.glob("*.src"), *folder.glob("*.tgt")]:
        (tmp_path / path.name).symlink_to(path)
    from_parquet, from_lines = read(folder), read(tmp_path)
    assert {split: len(rows["summary"]) for split, rows in from_parquet.items()} == {
        "train": 120,
        "validation": 20,
        "test": 20,
    }
    assert from_parquet == from_lines


@pytest.mark.parametrize(
    ("document", "joined"),
    [
        ("One. NEWLINE_CHAR NEWLINE_CHAR Two.", "One. \n \n Two."),
        ("One. ||||| Two. |||||", "One. ||||| Two."),
        ("||||| ||||| One.|||||Two.", "One. ||||| Two."),
        (" One  \t two\u00a0three ", "One two three"),
        ("|||||", ""),
    ],
)
def test_articles_are_joined_in_one_form(document: str, joined: str) -> None:
    assert multi_news.join_articles(document) == joined


def test_only_a_newline_ends_an_item(tmp_path: Path) -> None:
    write_lines(tmp_path)
    (tmp_path / "test.src").write_text("a\u2028b\x85c\rd\ne\n", newline="")
    (tmp_path / "test.tgt").write_text("one\ntwo\n")
    assert len(read(tmp_path)["test"]["document"]) == 2


def test_a_byte_order_mark_and_the_line_breaks_of_windows_are_no_text(tmp_path: Path) -> None:
    for path in write_lines(tmp_path).iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(tmp_path) == TEXTS


def test_a_kept_text_is_not_that_of_earlier_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = data(write_parquet(tmp_path)).test[torch.arange(3)].source
    monkeypatch.setattr(multi_news, "join_articles", lambda document: "changed")
    monkeypatch.setattr(multi_news, "CODE", "of the changed file")
    assert set(read(tmp_path)["test"]["document"]) == {"changed"}
    assert data(tmp_path).test[torch.arange(3)].source.shape != before.shape


def test_a_folder_is_read_without_a_network(tmp_path: Path, look_ups: list[object]) -> None:
    data(write_parquet(tmp_path))
    assert not look_ups


def test_documents_become_numbers_and_are_cut(tmp_path: Path) -> None:
    built = data(write_parquet(tmp_path), max_source_len=12, max_target_len=6)
    assert built.dataset == "Multi-News-sample"
    tokenizer = built.facts["tokenizer"]
    batch = built.test[torch.tensor([2, 0])]
    for row, number in enumerate((2, 0)):
        document, summary = (TEXTS["test"][name][number] for name in ("document", "summary"))
        source = tokenizer.encode(document).ids
        target = tokenizer.encode(summary).ids
        assert len(source) > 12
        assert len(target) > 6  # both must be cut
        assert batch.source[row].tolist() == source[:12]
        assert batch.labels[row].tolist() == target[:6]  # not taught to end there
        assert batch.summaries[row] == summary  # the reference of ROUGE is whole


def test_an_uncut_summary_survives_and_an_empty_document_is_one_token(tmp_path: Path) -> None:
    rows = {"document": ["|||||", "Some news."], "summary": ["Nothing.", "News, “some”."]}
    built = data(write_parquet(tmp_path, test=rows))
    batch = built.test[torch.arange(2)]
    assert batch.source_padding is not None
    assert batch.source_padding.logical_not().sum(dim=1)[0] == 1
    tokens = [[token for token in row if token != IGNORED] for row in batch.labels.tolist()]
    assert built.facts["tokenizer"].decode_batch(tokens) == rows["summary"]


def test_the_tokenizer_is_fitted_to_the_training_rows_only(tmp_path: Path) -> None:
    other = {"document": ["zyx zyx zyx zyx"] * 9, "summary": ["zyx zyx"] * 9}
    tokenizers = []
    for name, changes in {"a": {}, "b": {"validation": other, "test": other}, "c": other}.items():
        (tmp_path / name).mkdir()
        changes = {"train": changes} if name == "c" else changes
        folder = write_parquet(tmp_path / name, **changes)
        tokenizers.append(data(folder).facts["tokenizer"].to_str())
    assert tokenizers[0] == tokenizers[1] != tokenizers[2]


def test_test_rows_can_be_limited(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path)
    assert len(data(folder, max_test_items=2).test) == 2
    assert len(data(folder, max_test_items=9).test) == 3


def test_a_published_tokenizer_is_used(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path)
    path = tmp_path / "tokenizer.json"
    trained = data(folder).facts["tokenizer"]
    trained.save(str(path))
    given = data(folder, tokenizer=str(path), vocab_size=999).facts["tokenizer"]
    assert given.to_str() == trained.to_str()


def missing_folder(folder: Path) -> Path:
    return folder / "nowhere"


def missing_split(folder: Path) -> Path:
    (write_parquet(folder) / "validation.parquet").unlink()
    return folder


def missing_target(folder: Path) -> Path:
    (write_lines(folder) / "test.tgt").unlink()
    return folder


def empty_parquet(folder: Path) -> Path:
    nothing = pyarrow.table({name: pyarrow.array([], "string") for name in ("document", "summary")})
    pyarrow.parquet.write_table(nothing, write_parquet(folder) / "test.parquet")
    return folder


def missing_column(folder: Path) -> Path:
    return write_parquet(folder, train={"document": ["a"], "highlights": ["b"]})


def numbers(folder: Path) -> Path:
    return write_parquet(folder, train={"document": [1], "summary": ["b"]})


def missing_value(folder: Path) -> Path:
    return write_parquet(folder, train={"document": ["a", None], "summary": ["b", "c"]})


def no_parquet(folder: Path) -> Path:
    (write_parquet(folder) / "train.parquet").write_text("document,summary\n")
    return folder


def unequal_lines(folder: Path) -> Path:
    (write_lines(folder) / "train.tgt").write_text("one\ntwo\n")
    return folder


def empty_lines(folder: Path) -> Path:
    (write_lines(folder) / "train.src").write_text("")
    return folder


def two_validations(folder: Path) -> Path:
    (write_parquet(folder) / "val.parquet").write_bytes(b"")
    return folder


def doubled_column(folder: Path) -> Path:
    table = pyarrow.Table.from_arrays([["a"], ["b"], ["c"]], ["document", "summary", "summary"])
    pyarrow.parquet.write_table(table, write_parquet(folder) / "test.parquet")
    return folder


def no_text(folder: Path) -> Path:
    return write_parquet(folder, test={"document": ["a", "b"], "summary": [" ", ""]})


def no_utf8(folder: Path) -> Path:
    (write_lines(folder) / "train.src").write_bytes(b"caf\xe9\n")
    return folder


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_folder, r"generated, hub or a folder with Multi-News; '.*nowhere' is not there"),
        (missing_split, r"missing file .*validation.parquet \(or val.parquet\)"),
        (missing_target, r"missing file .*test.tgt"),
        (empty_parquet, r"test.parquet is empty"),
        (missing_column, r"train.parquet has no column 'summary'; .* found document, highlights"),
        (numbers, r"train.parquet: column 'document' must hold strings, got int64"),
        (missing_value, r"train.parquet: no document in row 1"),
        (two_validations, r"validation.parquet and val.parquet are both there"),
        (doubled_column, r"test.parquet has 2 column 'summary'; .* document, summary, summary"),
        (no_text, r": every summary of test is empty"),
        (no_parquet, r"train.parquet is no parquet file"),
        (unequal_lines, r"train.src has 3 lines and .*train.tgt has 2"),
        (empty_lines, r"train.src is empty"),
        (no_utf8, r"train.src is not UTF-8 at byte 3"),
    ],
)
def test_what_is_wrong_with_a_folder_is_told(
    tmp_path: Path, spoil: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        data(spoil(tmp_path))


def test_too_few_rows_for_a_batch_are_told(tmp_path: Path) -> None:
    built = data(write_parquet(tmp_path), batch_size=4)
    with pytest.raises(ValueError, match="3 training rows are fewer than batch_size 4"):
        built.train_dataloader()
