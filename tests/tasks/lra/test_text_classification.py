"""Reviews: the bytes of each form of IMDb, how they are split, and the generated ones."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tasks.lra.documents import Documents
from tasks.lra.text_classification.data import TextClassificationData
from tasks.lra.text_classification.generate import Settings, generate

TEXTS = {0: "bad <br />film, não", 1: "a fine film"}


def table(folder: Path, split: str, count: int, name: str = "{}.parquet", **columns: Any) -> None:
    labels = [i * 2 // count for i in range(count)]  # sorted by label, as IMDb's files are
    given = {"text": [f"{i} {TEXTS[label]}" for i, label in enumerate(labels)], "label": labels}
    pd.DataFrame({**given, **columns}).to_parquet(folder / name.format(split))


def data(source: Path | str, **given: Any) -> TextClassificationData:
    made = TextClassificationData(source=str(source), batch_size=2, **{"max_len": 24, **given})
    made.setup()
    return made


def shown(rows: Any) -> list[str]:
    tokens = rows[torch.arange(len(rows))].tokens
    return [bytes(t - 1 for t in row if t).decode(errors="replace") for row in tokens.tolist()]


def test_tokens_are_bytes_and_one_cut_before_they_are_padded() -> None:
    documents = Documents([b"ab", b"", bytes(range(256)), "né".encode()], max_len=3)
    tokens = documents.tokens(torch.tensor([3, 0, 2, 1]))
    assert tokens.tolist() == [[111, 196, 170], [98, 99, 0], [1, 2, 3], [0, 0, 0]]
    assert tokens.dtype == torch.int64
    assert Documents([bytes([255])], max_len=1).tokens(torch.tensor([0])).tolist() == [[256]]


def test_a_tenth_is_held_out_in_both_classes_and_nothing_is_cleaned(tmp_path: Path) -> None:
    table(tmp_path, "train", 40)
    table(tmp_path, "test", 20)
    read = data(tmp_path)
    assert shown(read.train)[0] == "0 bad <br />film, não"
    assert shown(read.validation) == [f"{i} {TEXTS[i // 20]}"[:24] for i in (9, 19, 29, 39)]
    assert not set(shown(read.train)) & set(shown(read.validation))
    assert [len(read.train), len(read.test)] == [36, 20]
    assert read.train.labels.bincount().tolist() == [18, 18]
    batch = read.train[torch.tensor([35, 0])]
    assert batch.labels.tolist() == [1, 0]
    assert torch.equal(batch.is_padding, batch.tokens == 0)
    assert read.dataset == "IMDb-sample"


def test_the_original_validates_on_the_test_rows(tmp_path: Path) -> None:
    table(tmp_path, "train", 40)
    table(tmp_path, "test", 20)
    read = data(tmp_path, protocol="lra2020", num_train=10)
    assert shown(read.validation) == shown(read.test)
    assert read.train.labels.bincount().tolist() == [5, 5]  # spread over rows sorted by label


def test_all_forms_give_the_same_rows(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("parquet", "imdb", "acl")]
    for split in ("train", "test"):
        for folder in folders[:2]:
            folder.mkdir(exist_ok=True)
        table(folders[0], split, 20)
        table(folders[1], split, 20, name="imdb_{}.parquet")
        for i in range(20):
            folder = folders[2] / split / ("neg", "pos")[i // 10]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:02}_1.txt").write_text(f"{i} {TEXTS[i // 10]}")
            (folder / "._hidden.txt").write_text("no review")
    one, other, last = (data(folder) for folder in folders)
    for part in ("train", "validation", "test"):
        rows = shown(getattr(one, part))
        assert rows == shown(getattr(other, part)) == shown(getattr(last, part))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0] * 19 + [2]}, r"test.parquet, row 19 \(counted .* label of 0 to 1, got 2"),
        ({"text": ["x"] * 3 + [None] * 17}, r"test.parquet, row 3 .*expected a text, got None"),
        ({"label": ["0"] * 20}, r"row 0 .*label of 0 to 1, got '0'"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, columns: Any, message: str) -> None:
    table(tmp_path, "train", 20)
    table(tmp_path, "test", 20, **columns)
    with pytest.raises(ValueError, match=message):
        data(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source must be generated, hub or .*'nowhere' is not"):
        data("nowhere")
    with pytest.raises(ValueError, match=r"missing file .*imdb_train.parquet \(or train.parquet"):
        data(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR0")
    with pytest.raises(ValueError, match=r"train.parquet is not a parquet file"):
        data(tmp_path)
    pd.DataFrame({"review": ["x"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"has no column 'text', it has: review"):
        data(tmp_path)
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "train" / "neg").mkdir(parents=True)
    (tmp_path / "train" / "neg" / "0_1.txt").write_text("bad")
    with pytest.raises(ValueError, match=r"train/pos has no .txt file"):
        data(tmp_path)


def test_the_hub_without_a_network_says_what_else_there_is(
    look_ups: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: _refuse())
    with pytest.raises(ValueError, match=r"cannot get stanfordnlp/imdb .*a folder with imdb_"):
        data("hub")


def _refuse() -> None:
    raise ConnectionError("no network in this test")


def test_a_generated_review_says_of_what_it_is_asked_for() -> None:
    texts, labels = generate(0, 500, Settings(max_len=20, num_aspects=4))
    for text, label in zip(texts, labels, strict=True):
        asked, said = chr(text[0]), text[1:].tobytes().decode().replace(" ", "")
        assert sorted(said.lower()) == list("abcd")
        small = "abcd"[int(asked)]
        assert (small in said) == bool(label)
        assert (small.upper() in said) != bool(label)
    assert abs(labels.mean() - 0.5) < 0.1  # four deviations
    again = generate(0, 500, Settings(max_len=20, num_aspects=4))
    assert (again.texts == texts).all()


def test_generated_rows_and_their_rules() -> None:
    one, two = (data("generated", num_train=500, num_eval=300, seed=seed) for seed in (0, 1))
    assert one.dataset == "reviews-synthetic"
    assert shown(one.test) == shown(two.test)
    assert shown(one.train) != shown(two.train)
    assert shown(one.test) != shown(one.validation)
    scores = one.trivial_scores()
    assert scores["majority"]["accuracy"] < 0.6
    assert scores["6-grams of bytes"]["accuracy"] < 0.8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_len": 6, "num_aspects": 6}, r"1 \+ num_aspects <= max_len .* 6 and max_len 6"),
        ({"num_aspects": 11}, r"1 <= num_aspects <= 10 is not so for 11"),
        ({"num_eval": None}, r"num_train and num_eval must be said, got 8 and None"),
        ({"num_train": 0}, r"num_train must be positive, got 0"),
        ({"protocol": "lra"}, r"protocol must be one of fixed, lra2020, got 'lra'"),
    ],
)
def test_impossible_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data("generated", **{"num_train": 8, "num_eval": 8, **given})
