"""Generated rows on disk: the same for all readers, each made once, whole or not at all."""

import multiprocessing
import resource
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks import shards
from tasks.data import EpochBatches
from tasks.shards import SHARD_ROWS, Shards

NUM_ROWS = 5 * SHARD_ROWS + 7


def draw(seed: Sequence[int], count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.integers(256, size=(count, 3)), "y": rng.integers(10, size=count)}


def rows_in(folder: Path, make: shards.Make = draw, version: int = 1, seed: int = 4) -> Shards:
    return Shards(
        "toy",
        version=version,
        settings={"a": 1},
        seed=seed,
        num_rows=NUM_ROWS,
        fields={"x": ((3,), "uint8"), "y": ((), "int64")},
        make=make,
        cache_dir=str(folder),
    )


EVERY = torch.arange(NUM_ROWS)


def test_rows_are_those_of_their_shard_whatever_is_read_first(tmp_path: Path) -> None:
    forward, backward = rows_in(tmp_path / "a"), rows_in(tmp_path / "b")
    late = backward[EVERY.flip(0)]
    for name, whole in forward[EVERY].items():
        assert torch.equal(whole, late[name].flip(0))
    third = draw((4, 3), SHARD_ROWS)
    found = forward[torch.tensor([3 * SHARD_ROWS + 5])]
    assert found["x"].tolist() == third["x"][5:6].tolist()
    assert found["x"].dtype == torch.uint8
    assert found["y"].tolist() == third["y"][5:6].tolist()
    assert not torch.equal(rows_in(tmp_path / "a", seed=5)[EVERY]["x"], forward[EVERY]["x"])


def noted(seed: Sequence[int], count: int) -> dict[str, np.ndarray]:
    with open(NOTES, "a") as file:
        file.write(f"{seed[1]}\n")
    return draw(seed, count)


def read_all(folder: str, notes: str, answers: "multiprocessing.SimpleQueue[list[int]]") -> None:
    global NOTES
    NOTES = notes
    rows = rows_in(Path(folder), noted)
    answers.put([int(rows[EVERY]["x"].sum()), int(rows[EVERY]["y"].sum())])


def test_several_processes_make_each_shard_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    notes = tmp_path / "notes"
    readers = [
        context.Process(target=read_all, args=(str(tmp_path), str(notes), answers))
        for _ in range(2)
    ]
    for reader in readers:
        reader.start()
    sums = [answers.get() for _ in readers]
    for reader in readers:
        reader.join()
    whole = rows_in(tmp_path / "alone")[EVERY]
    assert sums == 2 * [[int(whole["x"].sum()), int(whole["y"].sum())]]
    assert sorted(map(int, notes.read_text().split())) == list(range(6))


def test_who_would_wait_makes_the_next_shard(tmp_path: Path) -> None:
    reader, tried = rows_in(tmp_path), []

    def busy(shard: int, *, wait: bool = False) -> bool:
        tried.append((shard, wait))
        return wait or shard == 2

    reader._try = busy  # type: ignore[method-assign]
    reader._help(0)
    assert tried == [(1, False), (2, False)]  # 1 is taken too
    tried.clear()
    reader._help(2)
    assert tried[-1] == (2, True)  # nothing ahead is free


def test_what_failed_is_made_again(tmp_path: Path) -> None:
    def broken(seed: Sequence[int], count: int) -> dict[str, np.ndarray]:
        if seed[1] == 2:
            raise KeyboardInterrupt
        return draw(seed, count)

    with pytest.raises(KeyboardInterrupt):
        rows_in(tmp_path, broken)[EVERY]
    again = rows_in(tmp_path)[EVERY]
    assert torch.equal(again["x"], rows_in(tmp_path / "other")[EVERY]["x"])


def test_another_version_and_a_cut_file_are_made_anew(tmp_path: Path) -> None:
    before = rows_in(tmp_path)
    whole = before[EVERY]

    def other(seed: Sequence[int], count: int) -> dict[str, np.ndarray]:
        return {"x": np.full((count, 3), 9), "y": np.zeros(count)}

    assert torch.equal(rows_in(tmp_path, other)[EVERY]["x"], whole["x"])  # kept, not made
    assert rows_in(tmp_path, other, version=2)[EVERY]["x"].unique().tolist() == [9]
    file = before.folder / "x.npy"
    for left in (-100, 0):
        file.write_bytes(file.read_bytes()[:left])
        assert torch.equal(rows_in(tmp_path)[EVERY]["x"], whole["x"])


def test_a_full_disk_is_an_error_and_leaves_no_half_shard(tmp_path: Path) -> None:
    reader = rows_in(tmp_path)
    reader.need(torch.tensor([0]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * SHARD_ROWS * 3, hard))
    try:
        with pytest.raises(OSError, match=r"File too large"):
            reader.need(torch.tensor([3 * SHARD_ROWS]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(reader[EVERY]["x"], rows_in(tmp_path / "other")[EVERY]["x"])


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = f"generated rows cannot be kept in {tmp_path / 'file'}/.*cache_dir: Not a directory"
    with pytest.raises(OSError, match=told):
        rows_in(tmp_path / "file")[EVERY]


def test_the_first_epoch_reads_rows_in_their_order_and_the_others_do_not(tmp_path: Path) -> None:
    rows = rows_in(tmp_path)
    batches = EpochBatches(
        len(rows), 32, seed=0, shuffle=True, drop_last=True, in_order_first=rows.in_order_first
    )
    assert torch.equal(torch.cat(list(batches)), EVERY[: len(EVERY) // 32 * 32])
    batches.set_epoch(1)
    assert not torch.equal(torch.cat(list(batches)), EVERY[: len(EVERY) // 32 * 32])
