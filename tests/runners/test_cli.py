"""The command line as a user meets it: its help, and one line for each mistake."""

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from joblib.externals.loky.process_executor import TerminatedWorkerError

from runners import cli
from runners.ended import Ended
from runners.progress import Progress
from runners.records import Measurement, Record, RecordStore, Status
from runners.summary import show
from runners.sweep import _examples, _left


def ends(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of `attnbench` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["attnbench", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("asked", ["", "help", "-h", "--help", "list --help", "report x -h"])
def test_help_is_one_page(
    asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(monkeypatch, *asked.split()) == 0
    assert capsys.readouterr().out == cli.HELP


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("trian", "unknown command 'trian', did you mean 'train'?"),
        ("train attention=performr", "unknown attention 'performr', did you mean 'performer'?"),
        ("train task=mqar/tinny", "unknown task 'mqar/tinny', did you mean 'mqar/tiny'?"),
        ("speed pattern=causal", "unknown pattern 'causal', did you mean 'causal_"),
        ("train sead=3", "unknown setting 'sead', did you mean 'seed'?"),
        (
            "train task.data.num_trian=3",
            "unknown setting 'task.data.num_trian', did you mean 'num_",
        ),
        ("train seed=0,1", "seed=0,1 is a sweep, which needs -m; a list is written seed=[0,1]"),
        ("train --foo", "unrecognized arguments: --foo"),
        ("verify seed=0 lengths=[0] -cn verify", "lengths must be a list of positive integers"),
        ("report nowhere", "result folder nowhere does not exist"),
        ("report", "report needs a result folder"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    line: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ends(monkeypatch, *line.split()) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("attnbench: error: ")
    assert errors.count("\n") == 1
    assert told in errors


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m runners.cli help | true"
    shell = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True
    )
    assert shell.stderr == ""


def test_workers_that_die_before_a_run_end_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launches = 0

    def launch(jobs: list[list[str]], initial_job_idx: int) -> None:
        nonlocal launches
        launches += 1
        (told,) = tmp_path.glob(".sweep-*")
        if launches < 30:  # a run began, and died with its worker
            Progress(told).start(str(launches), "run")
        raise TerminatedWorkerError

    launcher = SimpleNamespace(launch=launch)
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_: launcher)
    assert ends(monkeypatch, "speed", "-m", f"run.results={tmp_path}") == 2
    assert "the workers died before they began a run" in capsys.readouterr().err
    assert launches == 30


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ("seed=range(0,0)", "a sweep of no runs: seed=range(0,0) leaves nothing to choose from"),
        ("attention=gla,softmx", "attention=softmx: unknown attention 'softmx', did you mean 'so"),
        # `eps` is a setting of the first choice, and none of the default's.
        ("attention=gla,abc attention.eps=1", "attention=abc: unknown setting 'attention.eps'"),
        ("seed=0,abc", "seed=abc: seed must be an integer"),
    ],
)
def test_a_sweep_names_the_choice_that_cannot_be(
    choices: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = f'run.results="{tmp_path / "my results"}"'
    assert ends(monkeypatch, "train", *choices.split(), "-m", results) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.rglob("*.json"))


def test_every_choice_is_in_an_example_of_a_sweep() -> None:
    jobs = [[f"a={a}", f"b={b}", f"c={c}"] for a in range(20) for b in range(20) for c in range(25)]
    examples = list(_examples(jobs))
    assert {choice for job in examples for choice in job} == {c for job in jobs for c in job}
    assert len(examples) == 20 + 20 + 25 - 2


@pytest.mark.parametrize(
    "flag", ["--config-dir={}", "--config-dir {}", "hydra.searchpath=[file://{}]"]
)
@pytest.mark.parametrize("sweep", ["", "-m "])
def test_configurations_of_another_folder_are_found(
    flag: str,
    sweep: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "mine.yaml").write_text("_target_: nowhere.Mine\nsize: 3\n")
    line = f"speed {sweep}attention=mine attention.colour=red {flag.format(tmp_path)}"
    assert ends(monkeypatch, *line.split(), f"run.results={tmp_path}") == 2
    assert "unknown setting 'attention.colour'" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["tasks", "html"])
def test_a_module_of_the_users_that_another_hides_is_named(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    (tmp_path / f"{module}.py").write_text("class Mine: ...")
    assert ends(monkeypatch, "verify", f"attention._target_={module}.Mine") == 2
    assert f"{module}.py of this folder is hidden by a module of" in capsys.readouterr().err
    assert sys.path[-1] == str(tmp_path)


def test_a_run_leaves_the_logging_of_libraries_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # That of absl closes its stream, which can be another's, when it is shut down.
    closed = []

    class Handler(logging.NullHandler):
        def close(self) -> None:
            closed.append(self)

    handler, logger = Handler(), logging.getLogger("somebody")
    assert ends(monkeypatch, "verify", "seed=abc") == 2
    assert not closed
    assert not logger.disabled
    del handler


def test_a_run_of_verify_without_a_verdict_is_told_from_a_refutation() -> None:
    def code(command: str, *measurements: Measurement) -> int:
        record = Record("a", command, Status.FAILED, {}, {}, measurements=measurements)
        return show([record])

    assert code("verify", Measurement("verify/causal_self/batch", 1.0)) == 1
    assert code("verify") == 2
    assert code("train") == 1


def test_jobs_that_are_recorded_in_several_places_are_all_composed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, progress = RecordStore(tmp_path), Progress(None)
    monkeypatch.setattr(Ended, "skip", lambda self, job, progress: True)
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        config = compose("speed", return_hydra_config=True)
        forced = compose("speed", ["run.force=true"], return_hydra_config=True)
    assert _left(store, config, [["seed=0"], ["seed=1"]], progress) == []
    assert _left(store, forced, [["seed=0"]], progress) == [["seed=0"]]
    places = [["run.sweep=a"], ["run.sweep=b"]]
    assert _left(store, config, places, progress) == places
