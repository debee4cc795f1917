"""When a run is run, resumes or shows its record, and how it ends; the bodies are stand-ins."""

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from runners import cli
from runners.ended import Ended
from runners.progress import Progress
from runners.records import RecordStore, Status
from runners.run import Run, execute
from runners.stopping import Stopped, stoppable
from tests.runners import toy
from tests.runners.test_train import train


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """Gives the settings of a command, for runs whose body the test writes."""
    hydra = HydraConfig.instance()
    monkeypatch.setattr(hydra, "cfg", hydra.cfg)

    def settings(command: str, *overrides: str) -> DictConfig:
        overrides = (f"run.results={tmp_path / 'results'}", *overrides)
        with initialize_config_dir(str(cli.CONF), version_base="1.3"):
            composed = compose(command, list(overrides), return_hydra_config=True)
        hydra.set_config(composed)
        with open_dict(composed):
            del composed["hydra"]
        return composed

    return settings


@pytest.fixture
def config(configured: Callable[..., DictConfig]) -> DictConfig:
    return configured("speed")


class Own(BaseException):
    """Of the code under test."""


def interrupt_itself() -> None:
    """What Lightning makes of a KeyboardInterrupt that is none of the user's."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise SystemExit(1)  # noqa: B904


def ends(raised: BaseException) -> Callable[[], None]:
    def end() -> None:
        raise raised

    return end


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        (ends(SystemExit(0)), Status.FAILED, "SystemExit: 0"),
        (ends(SystemExit()), Status.FAILED, "SystemExit"),
        (ends(Own("enough")), Status.FAILED, "Own: enough"),
        (ends(GeneratorExit()), Status.FAILED, "GeneratorExit"),
        (ends(StopIteration()), Status.FAILED, "StopIteration"),
        (ends(KeyboardInterrupt()), Status.FAILED, "KeyboardInterrupt"),
        (interrupt_itself, Status.FAILED, "KeyboardInterrupt"),
        (ends(MemoryError()), Status.OOM, "MemoryError"),
        (ends(ValueError("wrong")), Status.FAILED, "wrong"),
    ],
)
def test_every_way_to_end_is_a_row_with_what_was_measured_before(
    config: DictConfig, end: Callable[[], None], status: Status, error: str
) -> None:
    def measure(run: Run) -> None:
        run.add("nll", 0.5)
        end()

    before = signal.getsignal(signal.SIGINT)
    record = execute("speed", measure, config)
    assert (record.status, record.error) == (status, error)
    assert [(m.metric, m.value) for m in record.measurements] == [("nll", 0.5)]
    store = RecordStore(Path(config.run.results) / config.run.sweep)
    assert store.path(record.run_id).exists()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("step", ["training_step", "validation_step", "test_step"])
def test_a_stop_iteration_in_a_step_is_no_early_end(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lightning takes it for the end of the batches: the run would end well, with 0 steps.
    class Stops(toy.Toy):
        def forward(self) -> None:
            next(iter(()))

    setattr(Stops, step, lambda self, batch, batch_idx: self())
    Stops.__init_subclass__()
    monkeypatch.setattr(toy, "Toy", Stops)
    code, record = train(monkeypatch, tmp_path, "trainer.max_epochs=1")
    assert code == 1
    assert record.status is Status.FAILED
    assert "raised StopIteration" in record.error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("made_of_it", [None, SystemExit(1), RuntimeError("teardown")])
def test_a_signal_is_no_end_of_a_run(
    config: DictConfig, number: int, made_of_it: BaseException | None
) -> None:
    def measure(run: Run) -> None:
        try:
            os.kill(os.getpid(), number)
        except BaseException:
            raise made_of_it or Stopped(number)  # noqa: B904

    with pytest.raises(Stopped) as stopped, stoppable():
        execute("speed", measure, config)
    assert stopped.value.exit_code == 128 + number
    assert not list(Path(config.run.results).rglob("runs/*"))
    assert execute("speed", nothing, config).status is Status.OK


def test_a_stopped_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(command: str, arguments: list[str]) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setattr(cli, "_dispatch", stop)
    for line, says in {"train -m seed=1": "the same command goes on", "list": "SIGTERM\n"}.items():
        monkeypatch.setattr("sys.argv", ["attnbench", *line.split()])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 143
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert says in told


def test_the_environment_of_a_record_is_that_of_its_begin(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The commit of the checkout may change in the hours that a run takes.
    place: dict[str, Any] = {"git_commit": "before"}
    monkeypatch.setattr("runners.run.environment", lambda: dict(place))

    def measure(run: Run) -> None:
        place["git_commit"] = "after"

    assert execute("speed", measure, config).environment == {"git_commit": "before"}


def test_threads_are_those_of_each_run(config: DictConfig) -> None:
    # Both are runs of one process, as in a sweep.
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            config.run.threads, config.seed = threads, threads
            place = execute("speed", nothing, config).environment
            assert place["num_threads"] == threads
    finally:
        torch.set_num_threads(before)


def test_code_that_changes_while_a_run_waits_for_another_is_looked_at_again(
    config: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("class Mine: ...")
    monkeypatch.syspath_prepend(tmp_path)
    config.attention._target_ = "mine.Mine"
    real = RecordStore.sole

    def waited(self: RecordStore, run_id: str, *, wait: bool = True) -> Any:
        mine.write_text("class Mine: better = True")
        return real(self, run_id, wait=wait)

    monkeypatch.setattr(RecordStore, "sole", waited)
    record = execute("speed", nothing, config)
    monkeypatch.setattr(RecordStore, "sole", real)
    assert execute("speed", nothing, config).run_id == record.run_id


def test_edited_code_is_a_new_run_and_an_old_number_is_never_shown_for_it(
    config: DictConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    config.attention._target_ = "my_attention.Mine"
    mine = tmp_path / "my_attention.py"

    def measure(run: Run) -> None:
        run.add("nll", len(mine.read_text()))

    mine.write_text("class Mine: ...")
    first = execute("speed", measure, config)
    assert first.sources.keys() == {"my_attention", "attnbench"}
    assert first.labels["attention"] == "Mine"  # not the name of the class whose place it takes
    assert capsys.readouterr().err == ""
    mine.write_text("class Mine: better = True")
    second = execute("speed", measure, config)
    assert second.measurements != first.measurements
    assert second.run_id != first.run_id
    assert second.settings_id == first.settings_id
    told = capsys.readouterr().err
    assert told.startswith("attnbench: my_attention.Mine causal_self seed 0: my_attention has cha")
    assert told.count("\n") == 1
    again = execute("speed", measure, config)
    assert (again.run_id, again.started_at) == (second.run_id, second.started_at)
    told = capsys.readouterr().err
    date = second.started_at[:16].replace("T", " ")
    assert f"shows the record of {date} UTC; run.force=true runs it again\n" in told
    assert told.count("\n") == 1


def test_a_record_that_a_newer_one_supersedes_is_shown_with_that_word(
    config: DictConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The code was changed and changed back.
    monkeypatch.syspath_prepend(tmp_path)
    config.attention._target_ = "my_attention.Mine"
    store = RecordStore(Path(config.run.results) / config.run.sweep)
    for code, day in {"class Mine: ...": "26", "class Mine: better = True": "27"}.items():
        (tmp_path / "my_attention.py").write_text(code)
        record = execute("speed", nothing, config)
        store.write(dataclasses.replace(record, started_at=f"2026-11-{day}T12:00:00+00:00"))
    (tmp_path / "my_attention.py").write_text("class Mine: ...")
    capsys.readouterr()
    assert execute("speed", nothing, config).started_at.startswith("2026-11-26")
    assert "; the report shows a newer one of other code or data; run.f" in capsys.readouterr().err


def test_a_changed_data_file_is_a_new_run(
    configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    series = tmp_path / "ETTh1.csv"
    config = configured("train", "task=forecasting/tiny", f"task.data.source={series}")
    series.write_text("date,OT\n2016-07-01,1.0\n")
    first = execute("train", nothing, config)
    assert "task.data.source" in first.sources
    assert execute("train", nothing, config).run_id == first.run_id
    series.write_text("date,OT\n2016-07-01,2.0\n")
    assert execute("train", nothing, config).run_id != first.run_id


def test_a_run_resumes_from_a_checkpoint_of_its_own_code_alone(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config.run.force = False
    begun: list[list[str]] = []

    def killed(run: Run) -> None:
        begun.append(sorted(path.name for path in run.folder.glob("*")))
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "last.ckpt").touch()
        raise Stopped(signal.SIGTERM)

    def start() -> str:
        with pytest.raises(Stopped):
            execute("speed", killed, config)
        return capsys.readouterr().err

    monkeypatch.setattr("runners.run._measured", lambda command, measure, run, *_: measure(run))
    assert start() == ""
    assert start() == ""
    assert begun == [[], ["last.ckpt"]]
    # The same settings, and other code of ours.
    monkeypatch.setattr("runners.fingerprint.package_digest", lambda: "another")
    told = start()
    assert "starts anew: other code made the checkpoint" in told
    assert told.count("\n") == 1
    assert begun[2] == []
    assert start() == ""
    assert begun[3] == ["last.ckpt"]
    config.run.force = True
    assert "starts anew, as run.force=true asks" in start()
    assert begun[4] == []


def test_a_run_without_checkpoints_leaves_nothing_beside_its_record(config: DictConfig) -> None:
    execute("speed", nothing, config)
    store = Path(config.run.results) / config.run.sweep
    left = {path.relative_to(store).parts[0] for path in store.rglob("*") if path.is_file()}
    assert left == {"runs", "locks"}


def test_what_killed_writers_left_is_removed(config: DictConfig) -> None:
    store = RecordStore(Path(config.run.results) / config.run.sweep)
    store.runs.mkdir(parents=True)
    left, written = store.runs / ".a1.8x2k", store.runs / ".b2.9y3l"
    left.touch()
    written.touch()
    with store.sole("b2"):  # by a process that lives
        execute("speed", nothing, config)
    assert not left.exists()
    assert written.exists()


def test_a_sweep_knows_which_jobs_have_ended_without_their_settings(
    configured: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    mine = tmp_path / "my_attention.py"
    mine.write_text("class Mine: ...")
    job = ["seed=1", "attention=custom", "attention._target_=my_attention.Mine"]
    config = configured("speed", *job, f"run.progress={tmp_path / 'progress'}")
    store, progress = RecordStore(tmp_path / "results" / "speed"), Progress(tmp_path / "told")

    def skips(job: list[str]) -> bool:
        return Ended(store, "speed", HydraConfig.get()).skip(job, progress)

    assert not skips(job)
    record = execute("speed", nothing, config)
    assert skips(job)
    assert skips([*job, "run.progress=another", "hydra.launcher.n_jobs=1"])
    assert not skips(["seed=2", *job[1:]])
    (event, _) = progress.events()
    assert (event.run_id, event.kind, event.status) == (record.run_id, "skipped", "ok")
    assert event.name == "my_attention.Mine causal_self seed 1"
    assert event.note.startswith("of 20")
    with store.sole(record.run_id):  # another sweep runs it again
        assert not skips(job)
    mine.write_text("class Mine: better = True")
    assert not skips(job)
    mine.write_text("class Mine: ...")
    store.path(record.run_id).unlink()
    assert not skips(job)


def nothing(run: Run) -> None:
    """Measure nothing."""
