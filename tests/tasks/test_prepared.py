"""Rows made of files, once: all that can be used, in order, whatever the others are like."""

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.prepared import Item, Prepared, Unusable, prepare


def read(item: Item) -> dict[str, np.ndarray]:
    """A file of numbers; the words that it may hold instead are what is wrong with it."""
    numbers = json.loads(item.files[0].read_text())
    if isinstance(numbers, str):
        raise Unusable(f"{item.files[0]}: {numbers}")
    return {"x": np.array(numbers, "int32"), "total": np.array([[sum(numbers), item.about]])}


def prepared(folder: Path, *names: str, version: int = 1, num_workers: int = 0) -> Prepared:
    return prepare(
        "toy",
        [Item(name, (folder / f"{name}.json",), about=7) for name in names],
        read,
        version=version,
        settings={},
        cache_dir=str(folder / "cache"),
        num_workers=num_workers,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {"a": [1, 2, 3], "b": [], "c": [4], "d": "is torn"}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_items_stand_in_their_order_with_their_lengths(folder: Path, num_workers: int) -> None:
    made = prepared(folder, "a", "b", "c", num_workers=num_workers)
    assert made.names == ["a", "b", "c"]
    assert [made.get("x", i).tolist() for i in range(len(made))] == [[1, 2, 3], [], [4]]
    assert made.get("x", 0).dtype == np.int32
    assert made.lengths("x").tolist() == [3, 0, 1]
    assert made.get("total", 2).tolist() == [[4, 7]]
    assert isinstance(made.arrays["x"], np.memmap)


def test_what_cannot_be_used_is_left_out_and_named_each_time(folder: Path) -> None:
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=r"toy: 2 of 3 left out: .*d.json: is torn; .*e.json: No"
        ):
            made = prepared(folder, "d", "a", "e")
        assert (made.names, len(made.left_out)) == (["a"], 2)
    with pytest.raises(ValueError, match=r"toy: none of 1 items can be used: .*d.json: is torn"):
        prepared(folder, "d")
    with pytest.raises(ValueError, match="toy: there are no items"):
        prepared(folder)


def test_nothing_is_made_twice_but_for_another_file_or_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(folder, "a")
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "read", None)
        assert prepared(folder, "a").get("x", 0).tolist() == [1, 2, 3]
    (folder / "a.json").write_text("[5, 6]")
    assert prepared(folder, "a").get("x", 0).tolist() == [5, 6]
    prepared(folder, "a", version=2)
    assert len(list((folder / "cache" / "prepared").iterdir())) == 3
