"""Whole sweeps in processes of their own, killed and started again."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from runners.records import RecordStore, Status

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
pytestmark = pytest.mark.slow


def sweep(folder: Path, *overrides: str) -> "subprocess.Popen[str]":
    """Start a sweep of the toy in its own process group."""
    toy = ["--config-dir", str(HERE / "conf"), "task=toy/tiny", "device=cpu"]
    arguments = ["train", "-m", *toy, f"run.results={folder}", *overrides]
    return subprocess.Popen(
        [sys.executable, "-m", "runners.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Wait for a sweep; what it told on stderr."""
    _, told = process.communicate(timeout=900)
    assert process.returncode == code, told
    return told


def statuses(folder: Path) -> list[Status]:
    records, problems = RecordStore(folder / "train").read_all()
    assert problems == []
    return [record.status for record in records]


def wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 600
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} in {folder}"
        time.sleep(0.05)


def wait_for_end_of_group(process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        pytest.fail("workers outlive their sweep")


def kill_group(process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_sweep_shows_records_and_reports_every_run(tmp_path: Path) -> None:
    # Modules of the user's with the names of one of ours and of one of Python's.
    for name in ("tasks", "html"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is none of your modules')")
    choices = ["attention=softmax,none", "seed=0,1", "pattern=all,causal_cross"]
    told = finish(sweep(tmp_path, *choices))
    assert sorted(statuses(tmp_path)) == [Status.OK] * 4 + [Status.UNSUPPORTED] * 4
    assert "[8/8]" in told
    assert "8 of 8 runs, 0 failed" in told
    assert list((tmp_path / "train" / "report").glob("*.md"))
    assert not list(tmp_path.glob(".sweep-*"))
    told = finish(sweep(tmp_path, *choices))
    assert told.count(": already ") == 8
    assert "checking the settings" not in told, "what has ended is known without composing it"


def test_a_sweep_killed_at_any_moment_goes_on_where_it_was(tmp_path: Path) -> None:
    settings = ["seed=0,1,2", "trainer.max_epochs=30", "hydra.launcher.n_jobs=2"]
    process = sweep(tmp_path, *settings)
    wait_for(tmp_path, "train/checkpoints/*/last.ckpt")
    kill_group(process)
    process = sweep(tmp_path, *settings)
    wait_for(tmp_path, "train/runs/*.json")
    kill_group(process)
    finished = {path: path.read_bytes() for path in tmp_path.glob("train/runs/*.json")}
    finish(sweep(tmp_path, *settings))
    assert statuses(tmp_path) == [Status.OK] * 3
    for path, content in finished.items():
        assert path.read_bytes() == content, "a finished run was run again"


def test_two_sweeps_share_one_folder(tmp_path: Path) -> None:
    both = [sweep(tmp_path, "seed=0,1,2,3") for _ in range(2)]
    told = "".join(finish(process) for process in both)
    assert statuses(tmp_path) == [Status.OK] * 4
    assert told.count(": ok") == 4, "each run is run once"
    assert told.count(": already ok") == 4


def test_a_run_that_kills_its_worker_does_not_kill_the_sweep(tmp_path: Path) -> None:
    # The guilty first: the innocent then wait for it to end alone, and one is let in as it dies.
    finish(sweep(tmp_path, "seed=1", "hydra.launcher.n_jobs=2"))
    settings = ["task.model.mishap=die,fail,null", "seed=0,1", "hydra.launcher.n_jobs=2"]
    told = finish(sweep(tmp_path, *settings), code=1)
    assert sorted(statuses(tmp_path)) == [Status.FAILED] * 4 + [Status.OK] * 2
    assert told.count("died twice") == 2
    assert told.count("something broke") == 2, "what failed is not run again by the same sweep"
    assert told.count("already ok") == 1
    assert "6 of 6 runs, 4 failed" in told, "each run is told of once"


def test_failures_end_their_runs_alone(tmp_path: Path) -> None:
    told = finish(sweep(tmp_path, "task.model.mishap=fail,null,oom", "seed=0"), code=1)
    assert sorted(statuses(tmp_path)) == [Status.FAILED, Status.OK, Status.OOM]
    assert "something broke" in told


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_sweep_ends_with_its_workers_and_says_how_to_go_on(
    number: int, code: int, tmp_path: Path
) -> None:
    settings = ["seed=0,1", "trainer.max_epochs=300", "hydra.launcher.n_jobs=2"]
    process = sweep(tmp_path, *settings)
    wait_for(tmp_path, "train/checkpoints/*/last.ckpt")
    process.send_signal(number)  # to the one process, as a container's end does
    told = finish(process, code=code)
    assert told.splitlines()[-1].startswith(f"attnbench: stopped by {signal.Signals(number).name};")
    wait_for_end_of_group(process)
    assert not list(tmp_path.glob("train/runs/*"))
    assert not list(tmp_path.glob(".sweep-*"))
