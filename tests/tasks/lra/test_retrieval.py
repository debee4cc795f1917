"""Pairs of documents: the five columns of LRA's files, and generated ones."""

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.lra.retrieval.data import RetrievalData, read
from tasks.lra.retrieval.generate import Settings, generate

LINES = [
    '1.0\tP1\tP2\tthe "first paper\tthe second one',
    '0.0\tP1\tP3\tthe "first paper\tum Gr\u00fc\u00dfe',
]


def data(source: Path | str, **given: Any) -> RetrievalData:
    made = RetrievalData(source=str(source), batch_size=2, **{"max_len": 12, **given})
    made.setup()
    return made


def test_the_released_form_is_read_without_quoting(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("eval", 1), ("test", 2)):
        text = "\n".join(LINES * count) + "\n"
        path = tmp_path / f"new_aan_pairs.{part}.tsv"
        if part == "test":
            (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
    read_data = data(tmp_path)
    assert [len(p) for p in (read_data.train, read_data.validation, read_data.test)] == [8, 2, 4]
    batch = read_data.train[torch.tensor([0, 1])]
    assert batch.tokens.shape == batch.is_padding.shape == (2, 2, 12)
    assert batch.labels.tolist() == [1, 0]
    shown = [[bytes(t - 1 for t in row if t) for row in pair] for pair in batch.tokens.tolist()]
    texts = [line.encode().split(b"\t")[3:] for line in LINES]
    assert shown == [[text[:12] for text in pair] for pair in texts]
    assert torch.equal(batch.is_padding, batch.tokens == 0)
    assert len(read_data.train.documents) == 3  # a paper is held once, whatever pairs it is in
    assert read_data.dataset == "AAN-sample"
    assert len(data(tmp_path, num_train=3, num_eval=1).test) == 1
    (tmp_path / "new_aan_pairs.eval.tsv").unlink()
    with pytest.raises(ValueError, match=r"missing file .*new_aan_pairs.eval.tsv \(or "):
        data(tmp_path)


def test_documents_are_cut_at_10000_bytes(tmp_path: Path) -> None:
    path = tmp_path / "long.tsv"
    path.write_text(f"1.0\ta\tb\t{'x' * 12_000}\t{'y' * 30}\n")
    assert read(path, max_len=11_000).documents.lengths.tolist() == [10_000, 30]
    assert read(path, max_len=4_000).documents.lengths.tolist() == [4_000, 30]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.0\ta\tb\tone text", r"expected 5 fields \(label, id1, id2, text1, text2\), got 4"),
        ("1.0\ta\tb\tx\ty\tz", "got 6"),
        ("", "got 1"),
        ("2.0\ta\tb\tx\ty", "expected a label 0.0 or 1.0, got '2.0'"),
        ("1.0\ta\tb\tx\t", "the text of 'b' is empty"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "new_aan_pairs.train.tsv"
    path.write_text(f"{LINES[0]}\n{line}\n")
    with pytest.raises(ValueError, match=f"new_aan_pairs.train.tsv, line 2: .*{message}"):
        read(path, max_len=12)


def test_generated_documents_belong_together_if_they_use_the_same_term() -> None:
    texts, labels = generate(0, 400, Settings(max_len=16, num_terms=3))
    for pair, label in zip(texts, labels, strict=True):
        used = [chr(97 + int(chr(text[0]))).encode() in text.tobytes() for text in pair]
        assert (used[0] == used[1]) == bool(label)
    assert abs(labels.mean() - 0.5) < 0.1


def test_what_a_rule_of_common_bytes_reaches() -> None:
    made = data("generated", num_train=200, num_eval=200)
    assert made.dataset == "pairs-synthetic"
    assert made.facts["num_documents"] == 2
    for rule, score in made.trivial_scores().items():
        assert score["accuracy"] < 0.65, rule
    with pytest.raises(ValueError, match=r"1 \+ num_terms <= max_len .* 3 and max_len 3"):
        data("generated", num_train=8, num_eval=8, max_len=3)
    with pytest.raises(ValueError, match=r"source must be generated or a folder"):
        data("hub")
