"""Records that no run writes, and names that no one foresaw: one never costs the whole report."""

import copy
import csv
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from runners.records import Measurement, Status, UnreadableRecord, read_record
from runners.report.collection import collect
from runners.report.report import write_report
from runners.report.table import tidy
from tests.runners.report.made import folder, speed, train, verify

GOOD = json.loads(json.dumps(asdict(train("abc", {"accuracy": 0.5, "nll": 1.0}))))
VALUES: dict[str, Any] = {
    "null": None,
    "list": [1],
    "object": {"a": 1},
    "text": "1.5",
    "number": 3,
    "true": True,
    "negative": -1,
    "nan": float("nan"),
    "huge": 10**400,
    "deep": json.loads("[" * 400 + "]" * 400),
}
# What a field takes; any other of VALUES makes the record unreadable.
TAKES = {
    "run_id": {"text"},
    "command": {"text"},
    "status": set(),
    "config": {"object"},
    "environment": {"object"},
    "settings_id": {"text"},
    "sources": {"object"},
    "labels": {"object"},
    "measurements": set(),
    "error": {"text"},
    "traceback": {"text"},
    "started_at": {"text"},
    "duration_s": {"number", "negative", "nan"},
}
MEASUREMENT_TAKES = {
    "metric": {"text"},
    "value": {"null", "number", "negative", "nan"},
    "unit": {"text"},
    "direction": set(),
    "split": {"null", "text"},
    "seq_len": {"null", "number"},
    "step": {"null", "number"},
    "attention": {"null", "text"},
    "rule": {"null", "text"},
    "comment": {"text"},
    "samples": {"list"},
}
assert set(TAKES) == set(GOOD)
assert set(MEASUREMENT_TAKES) == set(GOOD["measurements"][0])


def with_field(name: str, value: Any) -> dict[str, Any]:
    return {**copy.deepcopy(GOOD), name: value}


def with_measurement(name: str, value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(GOOD)
    raw["measurements"][0][name] = value
    return raw


KINDS = [
    *(
        pytest.param(with_field(name, value), kind in takes, id=f"{name}={kind}")
        for name, takes in TAKES.items()
        for kind, value in VALUES.items()
    ),
    *(
        pytest.param(with_measurement(name, value), kind in takes, id=f"measurement.{name}={kind}")
        for name, takes in MEASUREMENT_TAKES.items()
        for kind, value in VALUES.items()
    ),
    pytest.param(with_measurement("metric", ""), False, id="no metric"),
    pytest.param(with_measurement("metric", "nll"), False, id="a metric twice"),
    pytest.param(with_measurement("direction", "up"), False, id="no direction"),
    pytest.param(with_measurement("seq_len", 0), False, id="no length"),
    pytest.param(with_measurement("seq_len", 2**60), False, id="endless"),
    pytest.param(with_measurement("samples", ["1"]), False, id="samples of text"),
    pytest.param(
        with_field(
            "measurements",
            [GOOD["measurements"][0] | {"rule": rule} for rule in (None, "first token")],
        ),
        True,
        id="a metric and its rule",
    ),
    pytest.param(with_field("later", 1), True, id="a field of another version"),
    pytest.param(with_field("config", json.loads('{"a":' * 90 + "1" + "}" * 90)), False, id="deep"),
]


@pytest.mark.parametrize(("raw", "is_usable"), KINDS)
def test_a_record_is_read_if_every_field_is_of_its_kind(
    tmp_path: Path, raw: dict[str, Any], is_usable: bool
) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(raw))
    if is_usable:
        assert len(tidy([read_record(path)])) == 2
    else:
        with pytest.raises(UnreadableRecord, match=r"odd\.json"):
            read_record(path)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "7", "[" * 100_000, '{"a":' * 100_000, '{"value": 1e', "\ud800", "{}"],
    ids=lambda text: repr(text[:6]),
)
def test_a_file_that_is_no_record_is_named_in_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UnreadableRecord, match=r"odd\.json") as raised:
        read_record(path)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


NAMES = [
    "a/b",
    "../../a",
    "a\x00b",
    "\x1b[31mred\x1b[0m",
    "$\\frac{$",
    "$_^$",
    "\ud800",
    "=1+1",
    "@cmd",
    "-1+cmd|x",
    "![x](http://host/x.png)",
    "[x](http://host)",
    "<img src=x>",
    "a|b\nc",
    "[bold]b[/]",
    "*x*",
    "`a`",
    "[x] \\\\[1cm]",
    "漢字",
    "\u202eabc",
    "n" * 3000,
    "a b",
    "a:b",
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of records with odd names in every place, and odd numbers."""
    results = tmp_path_factory.mktemp("odd")
    curve = [Measurement("nll", 1e300, "", "lower", "validation", step=2**50)]
    made = [
        train(name, {"accuracy": 0.5, "nll": 1.0}, monitor="nll", extra=curve) for name in NAMES
    ]
    made += [train("abc", status=Status.FAILED, error=f"it was {name}") for name in NAMES]
    made += [verify(name, {f"{name}/{name}": name}) for name in NAMES]
    for name in ("a/b", "a\x00b", "$\\frac{$", "![x](http://host/x.png)", "\ud800", "n" * 3000):
        place: dict[str, Any] = {"task": name, "dataset": name, "backbone": name, "suite": name}
        made.append(train("softmax", {name: 0.5}, **place))
    made.append(train("softmax", {"accuracy": 0.5}, pattern="../../a\x00"))
    made += [train("big", {"nll": 1e308}, seed=seed) for seed in range(3)]
    made += [train("small", {"nll": -1e308}, seed=0), train("inf", {"nll": float("inf")})]
    times = {"forward_time": {2**i: 1e300 / 2**i for i in (0, 20, 52)}}
    made += [speed("abc", times, {"forward_time": dict.fromkeys((1, 2**20, 2**52), 1e-300)})]
    made += [speed("=a", times, times, pattern="a/b"), verify("abc", {"nothing": ""})]
    folder(results, *made)
    runs = results / "runs"
    for number, kind in enumerate(KINDS):
        raw: dict[str, Any] = dict(kind.values[0])  # type: ignore[arg-type]
        if raw["run_id"] == GOOD["run_id"]:
            raw["run_id"] = f"odd{number}"
        (runs / f"odd{number}.json").write_text(json.dumps(raw))
    write_report([results], results / "report")
    return results / "report"


def test_odd_names_and_numbers_still_make_a_report(odd: Path) -> None:
    page = (odd / "report.md").read_text("utf-8")
    assert "## Leaderboards" in page
    assert all(char.isprintable() or char == "\n" for char in page)
    links = re.findall(r"(?<!\\)\]\(([^)]+)\)", page)
    assert len(links) > 30
    for link in links:
        assert (odd / link).stat().st_size > 0
    inside = {path for path in odd.parent.rglob("*") if "/runs/" not in str(path)}
    assert all(path.is_relative_to(odd) or path in (odd.parent / "runs",) for path in inside)


def test_no_name_becomes_a_link_or_a_formula(odd: Path) -> None:
    page = (odd / "report.md").read_text("utf-8")
    assert not re.search(r"(?<!\\)(\]\(http|<img|\x1b)|(?<!\\)://", page)
    for path in (odd / "tables").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.reader(file):
                for cell in line:
                    assert not re.match(r"[=+@\t\r]|-(?![\d.])", cell), (path.name, cell)


def test_what_is_left_out_is_named_and_the_top_of_the_page_stays_short(odd: Path) -> None:
    top = (odd / "report.md").read_text("utf-8").split("\n## ")[0]
    num_odd = sum(not kind.values[1] for kind in KINDS)
    named = (odd / "warnings.txt").read_text("utf-8").splitlines()
    assert sum("unreadable record" in line for line in named) == num_odd
    assert len(top.splitlines()) < 15
    assert len(top) < 6000
    assert "more, in warnings.txt" in top.replace("\\", "")


def test_what_is_printed_has_no_escape_sequence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [train(f"\x1b]0;title\x07{i}", {"acc\x1b[2J": 0.1 * i}) for i in range(2)]
    folder(tmp_path, *made, train("x", status=Status.DIVERGED, error="\x1b[31m"))
    (tmp_path / "runs" / "b\x1b[31m.json").write_text("{")
    write_report([tmp_path], tmp_path / "report")
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "\\x1b" in printed.out


def test_a_record_without_a_mechanism_is_named_and_left_out(tmp_path: Path) -> None:
    nameless = train("", {"accuracy": 0.5})
    folder(tmp_path, train("abc", {"accuracy": 0.5}), nameless)
    found = collect([tmp_path])
    assert len(found.records) == 1
    assert nameless.run_id in found.problems[0]


def test_a_folder_of_unreadable_records_does_not_cost_the_others(tmp_path: Path) -> None:
    good = folder(tmp_path / "good", train("abc", {"accuracy": 0.5}))
    (tmp_path / "bad" / "runs").mkdir(parents=True)
    (tmp_path / "bad" / "runs" / "x.json").write_text("{")
    found = collect([tmp_path / "bad", good])
    assert len(found.records) == 1
    assert "x.json" in found.problems[0]


def test_runs_that_all_diverged_still_make_a_report(tmp_path: Path) -> None:
    folder(tmp_path, train("abc", status=Status.DIVERGED, error="loss not finite at step 12"))
    page = write_report([tmp_path], tmp_path / "report").read_text()
    assert "| abc | diverged |" in page
    named = "1 runs diverged: abc mqar causal\\_self seed 0 (loss not finite at step 12)"
    assert named in page.split("\n## ")[0]
