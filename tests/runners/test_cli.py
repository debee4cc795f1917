"""The command line as a user meets it: its help, and one line for each mistake."""

import subprocess
import sys
from pathlib import Path

import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from runners import cli
from runners.progress import Progress


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    launches = 0

    def start() -> None:
        nonlocal launches
        launches += 1
        (told,) = tmp_path.glob(".sweep-*")
        if launches < 30:  # a run began, and died with its worker
            Progress(told).start(str(launches), "run")
        raise TerminatedWorkerError

    with pytest.raises(cli.UserError, match="the workers died before they began a run"):
        cli._sweep(start, "train", [f"run.results={tmp_path}"])
    assert launches == 30
