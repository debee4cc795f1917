import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from runners.records import (
    Measurement,
    Record,
    RecordStore,
    Status,
    UnreadableRecord,
    run_id,
    settings_id,
)


def record(identity: str = "a1", value: float = 0.5) -> Record:
    return Record(
        run_id=identity,
        command="train",
        status=Status.OK,
        config={"seed": 0},
        environment={"torch": "2"},
        labels={"task": "mqar"},
        measurements=(Measurement("accuracy", value, direction="higher", split="test"),),
    )


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(record())
    assert store.read("a1") == record()
    assert store.read("absent") is None


def test_only_what_determines_the_result_enters_the_run_id() -> None:
    config = {"seed": 0, "attention": {"window": 8}, "run": {"results": "here"}}
    identity = run_id(settings_id("train", config), {}, None)
    elsewhere = config | {"run": {"results": "there"}}
    assert identity == run_id(settings_id("train", elsewhere), {}, None)
    assert identity != run_id(settings_id("train", config | {"seed": 1}), {}, None)
    assert identity != run_id(settings_id("speed", config), {}, None)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "{}", '{"status": "fine"}', '{"measurements": 3}', "\x00\xff"]
)
def test_a_damaged_record_is_named_and_left_out(tmp_path: Path, damage: str) -> None:
    store = RecordStore(tmp_path)
    store.write(record("a1"))
    store.write(record("b2"))
    store.path("b2").write_text(damage)
    records, problems = store.read_all()
    assert records == [record("a1")]
    assert len(problems) == 1
    assert str(store.path("b2")) in problems[0]
    assert store.path("b2").read_text() == damage  # never overwritten by reading
    with pytest.raises(UnreadableRecord, match="b2"):
        store.read("b2")


def test_a_record_missing_a_field_is_unreadable(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    path = store.write(record())
    raw = json.loads(path.read_text())
    del raw["command"]
    path.write_text(json.dumps(raw))
    with pytest.raises(UnreadableRecord, match="command"):
        store.read("a1")


def test_a_full_disk_leaves_the_old_record_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RecordStore(tmp_path)
    store.write(record(value=0.5))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(record(value=0.9))
    assert store.read("a1") == record(value=0.5)
    assert [path.name for path in store.runs.iterdir()] == ["a1.json"]


def _write_often(folder: Path, value: float) -> None:
    for _ in range(50):
        RecordStore(folder).write(record(value=value))


def test_many_writers_never_leave_half_a_record(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(tmp_path, v)) for v in (0.25, 0.75)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        found = RecordStore(tmp_path).read("a1")
        if found is not None:
            seen.add(found.measurements[0].value)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen <= {0.25, 0.75}
    assert [path.name for path in RecordStore(tmp_path).runs.iterdir()] == ["a1.json"]
