"""The file through which the jobs of a sweep report."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from runners.progress import Event, Progress, progress_file


def test_a_half_written_line_is_left_for_later(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress")
    progress.tell("a1", "run", "started")
    whole = (tmp_path / "progress").read_bytes()
    with (tmp_path / "progress").open("ab") as file:
        file.write(whole[:9])
        file.flush()
        assert [event.kind for event in progress.events()] == ["started"]
        assert progress.deaths()["a1"] == 1
        file.write(whole[9:])
    assert progress.deaths()["a1"] == 2


def test_a_run_let_in_by_a_death_is_not_blamed_for_its_own(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress")
    progress.launch()
    for run_id in ("guilty", "innocent"):
        progress.start(run_id, run_id)  # beside each other: either may have killed the pool
    progress.launch()
    progress.start("guilty", "guilty")  # alone, and dead again
    progress.start("innocent", "innocent")  # let in by that death, killed with the pool
    assert progress.deaths() == {"guilty": 2, "innocent": 1}
    progress.launch()
    progress.start("innocent", "innocent")  # alone, beside no death but its own
    assert progress.deaths() == {"guilty": 2, "innocent": 2}


def test_what_is_over_is_no_death(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress")
    progress.start("a1", "run")
    assert not progress.is_over("a1")
    Progress(tmp_path / "progress").tell("a1", "run", "ended", "ok", note="as another tells")
    assert progress.is_over("a1")
    assert progress.deaths() == {}
    assert progress.events()[-1] == Event("a1", "run", "ended", "ok", "", "as another tells")


def test_a_worker_reads_what_was_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each run of a sweep asks; that must not take longer, the more runs there are.
    path = tmp_path / "progress"
    progress = Progress.at(str(path))
    num_parsed, real = 0, Event.__init__

    def counted(self: Event, *args: str, **kwargs: str) -> None:
        nonlocal num_parsed
        num_parsed += 1
        real(self, *args, **kwargs)

    for number in range(100):
        Progress(path).tell(str(number), "run", "ended", "ok")
    monkeypatch.setattr(Event, "__init__", counted)
    for number in range(100):
        assert Progress.at(str(path)) is progress
        assert progress.is_over(str(number))
    assert num_parsed == 100


def test_files_of_killed_sweeps_are_removed_and_those_of_living_ones_kept(tmp_path: Path) -> None:
    long_ago = time.time() - 3600
    for name in (".sweep-killed.jsonl", ".sweep-living.jsonl", ".sweep-starting.jsonl"):
        (tmp_path / name).touch()
    for name in (".sweep-killed.jsonl", ".sweep-living.jsonl"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    with (tmp_path / ".sweep-living.jsonl").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as the process of that sweep does
        with progress_file(tmp_path) as first:
            os.utime(first, (long_ago, long_ago))
            with progress_file(tmp_path) as second:
                left = {str(path) for path in tmp_path.iterdir()}
    kept = [tmp_path / name for name in (".sweep-living.jsonl", ".sweep-starting.jsonl")]
    assert left == {first, second, *map(str, kept)}
    assert set(tmp_path.iterdir()) == set(kept)
