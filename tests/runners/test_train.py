"""One run and its record; what is killed and resumed, or diverges, is in test_training.py."""

import sys
from pathlib import Path

import pytest
import torch

from runners import cli
from runners.records import Record, RecordStore, Status
from tests.runners.toy import Toy

HERE = Path(__file__).parent
TOY = ["train", "--config-dir", str(HERE / "conf"), "task=toy/tiny", "device=cpu"]


def attnbench(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["attnbench", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def train(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> tuple[int, Record]:
    """Train the toy; the exit code and the newest record."""
    code = attnbench(monkeypatch, *TOY, f"run.results={folder}", *overrides)
    paths = sorted((folder / "train" / "runs").glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
    record = RecordStore(folder / "train").read(paths[-1].stem)
    assert record is not None
    return code, record


def test_a_run_is_recorded_with_its_settings_place_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, record = train(monkeypatch, tmp_path, "attention=linear_elu", "seed=3")
    assert code == 0
    assert record.status is Status.OK
    assert record.config["attention"]["eps"] == 1e-6
    assert {"torch", "processor", "num_threads", "git_commit"} <= record.environment.keys()
    expected = {"task": "toy", "attention": "linear_elu", "pattern": "causal_self", "seed": 3}
    expected |= {"dataset": "toy-synthetic", "backbone": "toy", "device": "cpu", "variant": ""}
    assert expected.items() <= record.labels.items()
    by_name = {(m.metric, m.split, m.step): m for m in record.measurements}
    assert by_name["mse", "test", None].direction == "lower"
    assert [step for name, split, step in by_name if split == "validation"] == [10, 20, 30]
    # 4 x (16 x 16 + 16) in the attention, as softmax has
    overhead = by_name["parameter_overhead", None, None]
    assert overhead.value == 0.0
    state = by_name["state_elements", None, None]
    assert (state.value, state.unit, state.seq_len) == (2 * 8 * 9, "elements", 12)


def test_settings_changed_by_hand_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, record = train(monkeypatch, tmp_path, "task.model.lr=0.01", "trainer.max_epochs=1")
    assert record.labels["variant"] == "task.model.lr=0.01, trainer.max_epochs=1"


def test_the_same_seed_gives_the_same_number_and_a_finished_run_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = train(monkeypatch, tmp_path, "seed=1")
    _, again = train(monkeypatch, tmp_path, "seed=1")
    assert again == first  # the record itself, not a second measurement
    path = RecordStore(tmp_path / "train").path(first.run_id)
    written = path.stat().st_mtime_ns
    _, forced = train(monkeypatch, tmp_path, "seed=1", "run.force=true")
    assert path.stat().st_mtime_ns > written

    def quality(record: Record) -> list[float | None]:
        return [m.value for m in record.measurements if m.metric == "mse"]

    assert quality(forced) == quality(first)


@pytest.mark.parametrize(
    ("mishap", "overrides", "status", "error"),
    [
        ("fail", [], Status.FAILED, "RuntimeError: something broke"),
        ("oom", [], Status.OOM, "memory"),
        ("hang", ["run.timeout_s=1.5"], Status.TIMEOUT, "run.timeout_s = 1.5"),
    ],
)
def test_a_mishap_becomes_a_status_and_is_tried_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mishap: str,
    overrides: list[str],
    status: Status,
    error: str,
) -> None:
    code, record = train(monkeypatch, tmp_path, f"task.model.mishap={mishap}", *overrides)
    assert code == 1
    assert record.status is status
    assert error in record.error
    assert not record.status.is_final


def test_a_task_writes_samples_beside_its_record_and_loses_no_score_if_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(model: Toy, folder: Path) -> None:
        assert not model.training
        assert not torch.is_grad_enabled()
        (folder / "sample.txt").write_text("look")

    def fail(model: Toy, folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(Toy, "write_samples", write)
    code, record = train(monkeypatch, tmp_path, "trainer.max_epochs=1")
    assert code == 0
    folder = tmp_path / "train" / "samples" / record.run_id
    assert (folder / "sample.txt").read_text() == "look"
    monkeypatch.setattr(Toy, "write_samples", fail)
    code, failed = train(monkeypatch, tmp_path, "trainer.max_epochs=1", "run.force=true")
    assert (code, failed.status) == (1, Status.FAILED)
    assert "No space left on device" in failed.error
    tested = [[m.value for m in r.measurements if m.split == "test"] for r in (record, failed)]
    assert tested[0] == tested[1] != []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["attention=sotfmax"], "unknown attention 'sotfmax', did you mean 'softmax'?"),
        (["task=toy/tinny"], "unknown task 'toy/tinny', did you mean 'toy/tiny'?"),
        (["pattern=causal"], "unknown pattern 'causal', did you mean 'causal_"),
        (["attention.window=3"], "unknown setting 'attention.window'"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    code = attnbench(monkeypatch, *TOY, f"run.results={tmp_path}", *overrides)
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        (["pattern=causal_cross"], "unsupported", "task Toy has no causal_cross"),
        (["attention._target_=nowhere.Mine"], "failed", "cannot import the attention"),
        (["attention._target_=pathlib.Path"], "failed", "must be a subclass of"),
        (["+attention.colour=red"], "failed", "unexpected keyword argument 'colour'"),
    ],
)
def test_what_cannot_run_is_a_record_and_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    status: str,
    message: str,
) -> None:
    code, record = train(monkeypatch, tmp_path, *overrides)
    assert code == 1
    assert record.status == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_cuda_without_cuda_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, record = train(monkeypatch, tmp_path, "device=cuda")
    assert record.status is Status.UNAVAILABLE
    assert record.error == "device cuda: torch sees no CUDA device on this machine"


def test_a_results_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").write_text("a file, not a folder")
    code = attnbench(monkeypatch, *TOY, f"run.results={tmp_path / 'results'}")
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "not writable" in lines[0]


def test_a_full_disk_ends_a_sweep_at_its_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    num_runs = 0

    def full(self: RecordStore, record: Record) -> Path:
        nonlocal num_runs
        num_runs += 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordStore, "write", full)
    settings = ["seed=0,1,2", "trainer.max_epochs=1", "hydra.launcher.n_jobs=1"]
    assert attnbench(monkeypatch, *TOY, "-m", f"run.results={tmp_path}", *settings) == 2
    assert num_runs == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device; the sweep has ended" in last


def test_a_full_disk_prints_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: RecordStore, record: Record) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordStore, "write", full)
    code = attnbench(monkeypatch, *TOY, f"run.results={tmp_path}", "trainer.max_epochs=1")
    assert code == 2
    told = capsys.readouterr()
    assert "No space left on device" in told.err
    assert "metric='mse'" in told.out
