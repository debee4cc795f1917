"""What a run prints at its end: few lines, each with its number or the reason why there is none."""

import io
import re

import pytest
from rich.console import Console

from runners import summary
from runners.records import Measurement, Record, Status

PASSES = ("forward", "decode ")


def speed_run(lengths: tuple[int, ...]) -> Record:
    """Every row that `attnbench speed` records; the greatest length has no memory left."""
    rows = []
    for n in lengths:
        for name in ("forward", "decode"):
            lost = n == lengths[-1] and name == "forward"
            values = {"time": (1.5, "ms"), "time_iqr": (0.1, "ms"), "time_calls": (5, ""),
                      "memory": (2.25, "MiB"), "flops": (4096, "FLOP")}  # fmt: skip
            for who in (None, "softmax"):
                gone = lost and who is None
                rows += [
                    Measurement(f"{name}_{what}", None if gone else 2 * value if who else value,
                                unit, seq_len=n, attention=who,
                                comment=f"oom at {n}" if gone else "")
                    for what, (value, unit) in values.items()
                ]  # fmt: skip
            rows.append(
                Measurement(f"{name}_time_ratio", None if lost else 0.51, "ratio", seq_len=n,
                            comment=f"own: oom at {n}" if lost else "")
            )  # fmt: skip
    config = {"baseline": "softmax"}
    labels = {"attention": "abc", "pattern": "causal_self"}
    return Record("id", "speed", Status.OK, config, {}, labels=labels, measurements=tuple(rows))


def printed(record: Record, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(summary, "Console", lambda: console)
    assert summary.show([record]) == 0
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_speed_run_has_a_line_per_pass_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(speed_run((256, 512)), monkeypatch)
    assert "abc causal_self" in lines[0]
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines if line[1:8] in PASSES]
    assert cells == [
        ["forward", "256", "1.5", "3", "0.51", "2.25", "4.5", "0.0041"],
        ["forward", "512", "oom", "3", "oom", "oom", "4.5", "oom"],
        ["decode", "256", "1.5", "3", "0.51", "2.25", "4.5", "0.0041"],
        ["decode", "512", "1.5", "3", "0.51", "2.25", "4.5", "0.0041"],
    ]
    assert len(speed_run((256, 512)).measurements) > 40  # of which a reader wants these


def test_a_trained_task_has_a_line_per_metric_without_its_curves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = (
        Measurement("accuracy", 0.5, direction="higher", split="validation", step=10),
        Measurement("accuracy", 0.75, direction="higher", split="test"),
    )
    record = Record("id", "train", Status.OK, {}, {}, measurements=rows)
    lines = printed(record, monkeypatch)
    assert sum("accuracy" in line for line in lines) == 1
    assert any("0.75" in line for line in lines)


def test_the_score_of_a_rule_is_not_shown_as_the_run_s_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = (
        Measurement("accuracy", 0.75, split="test"),
        Measurement("accuracy", 0.25, split="test", rule="majority"),
    )
    record = Record("id", "train", Status.OK, {}, {}, measurements=rows)
    names = {
        value: line.split("│")[1].strip()
        for line in printed(record, monkeypatch)
        for value in ("0.75", "0.25")
        if value in line
    }
    assert names == {"0.75": "accuracy", "0.25": "accuracy of rule: majority"}


def test_a_run_that_did_not_end_well_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    record = Record("id", "speed", Status.OOM, {}, {}, error="no memory")
    assert summary.show([record]) == 1
    assert capsys.readouterr().err == "attnbench: oom: no memory\n"
