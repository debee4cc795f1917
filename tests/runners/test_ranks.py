"""Training on several ranks, started by the plain command or by torchrun, against one."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from runners.launch import num_ranks
from runners.records import Record, RecordStore, Status
from runners.started import num_started
from tests.runners.test_sweep import wait_for_end_of_group
from tests.runners.test_train import attnbench

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOY = ("--config-dir", str(HERE / "conf"), "task=toy/tiny", "device=cpu", "run.threads=1")
EXACT = ("trainer.precision=64-true", "+task.model.dropout=0.0", "trainer.max_epochs=2")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
slow = pytest.mark.slow


def start(folder: Path, *overrides: str, by: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """Train the toy in processes of its own."""
    return subprocess.Popen(
        [
            sys.executable,
            *by,
            "-m",
            "runners.cli",
            "train",
            *TOY,
            f"run.results={folder}",
            *overrides,
        ],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOY_STOPPED": str(folder / "stopped")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Wait for a run, and end what hangs."""
    try:
        return process.communicate(timeout=300)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def train(folder: Path, *overrides: str, by: tuple[str, ...] = ()) -> tuple[Record, str, str]:
    """The record that a run leaves, which is the only one, and what it prints."""
    folder.mkdir(exist_ok=True)
    process = start(folder, *overrides, by=by)
    out, err = finish(process)
    records, problems = RecordStore(folder / "train").read_all()
    assert (len(records), problems) == (1, []), out + err
    return records[0], out, err


def curve(record: Record) -> list[float]:
    return [m.value for m in record.measurements if m.metric == "mse" and m.value is not None]


def labels(record: Record) -> Any:
    return record.status, record.labels["world_size"]


@slow
def test_two_ranks_give_the_numbers_of_one(tmp_path: Path) -> None:
    """Of the same global batch; 40 rows are three evaluation batches, two on the first rank."""
    sizes = "+task.data.eval_batch_size=16"
    alone, _, _ = train(tmp_path / "alone", *EXACT, sizes, "task.data.batch_size=80")
    two = (*EXACT, sizes, "task.data.batch_size=40", "trainer.devices=2")
    started, out, err = train(tmp_path / "started", *two)
    joined, both, _ = train(tmp_path / "joined", *two, by=TORCHRUN)
    assert labels(alone) == (Status.OK, 1)
    assert labels(started) == labels(joined) == (Status.OK, 2)
    # Sums in another order: the last bits of float64.
    assert curve(started) == pytest.approx(curve(alone), rel=1e-12)
    assert len(curve(alone)) == 3
    assert curve(joined) == curve(started)
    assert (out.count("parameter_overhead"), both.count("parameter_overhead")) == (1, 1)
    assert err == ""


@slow
def test_one_rank_goes_on_where_two_were(tmp_path: Path) -> None:
    run = ("trainer.devices=auto", "task.model.mishap=stop once", "task.data.batch_size=80")
    broken, _, _ = train(tmp_path, *run, "task.data.batch_size=40", by=TORCHRUN)
    assert (broken.status, broken.error) == (Status.FAILED, "RuntimeError: stopped")
    assert len(curve(broken)) == 2  # of epochs of four steps
    resumed, out, _ = train(tmp_path, *run, "task.data.batch_size=40")
    assert labels(resumed) == (Status.OK, 1)
    assert "goes on from epoch 2" in out
    assert curve(resumed)[:2] == curve(broken)


@slow
def test_the_failure_of_a_rank_is_recorded_with_what_was_measured(tmp_path: Path) -> None:
    run = ("trainer.devices=2", "task.model.mishap=fail on rank 1")
    record, _, _ = train(tmp_path, *run, by=TORCHRUN)
    assert (record.status, record.error) == (Status.FAILED, "RuntimeError: something broke")
    assert "on rank 1:" in record.traceback
    assert "parameters" in {m.metric for m in record.measurements}


@slow
def test_a_rank_that_is_killed_is_named_and_one_that_hangs_has_its_time(tmp_path: Path) -> None:
    killed, _, _ = train(tmp_path / "a", "trainer.devices=2", "task.model.mishap=die on rank 1")
    assert killed.status is Status.FAILED
    assert "rank 1 of 2 died" in killed.error
    limit = ("task.model.mishap=hang on rank 1", "run.timeout_s=25")
    late, _, _ = train(tmp_path / "b", "trainer.devices=2", *limit)
    assert late.status is Status.TIMEOUT


@slow
def test_a_stopped_run_leaves_no_record_and_no_process(tmp_path: Path) -> None:
    process = start(tmp_path, "trainer.devices=2", "task.model.mishap=say so and hang")
    while not (tmp_path / "stopped").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert "attnbench: stopped by SIGTERM" in err
    assert not list(tmp_path.glob("train/runs/*.json"))
    wait_for_end_of_group(process)


@pytest.mark.parametrize(
    ("trainer", "started", "error"),
    [
        ({"devices": 2, "num_nodes": 2}, 1, "by torchrun --nnodes=2 --nproc-per-node=2"),
        ({}, 2, "2 ranks were started, but trainer.devices=1 x trainer.num_nodes=1 is 1"),
        ({"devices": [0, 1], "num_nodes": 2}, 2, "is 4"),
    ],
)
def test_ranks_that_cannot_be_are_refused(
    trainer: dict[str, Any], started: int, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = OmegaConf.create({"device": "cpu", "task": {"trainer": {}}, "trainer": trainer})
    if started > 1:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
        monkeypatch.setenv("WORLD_SIZE", str(started))
    with pytest.raises(ValueError, match=error):
        num_ranks(config)


def test_a_batch_script_of_slurm_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    assert num_started() == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert num_started() == 4


def test_a_sweep_is_not_started_on_every_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert attnbench(monkeypatch, "train", "-m", "seed=0,1") == 2
    assert "a sweep starts the ranks of its runs itself" in capsys.readouterr().err
