import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runners.records import Measurement, Record, Status
from runners.report.collection import NoRecords
from runners.report.report import main, write_report
from runners.report.table import COLUMNS
from tests.runners.report.made import folder, speed, train, verify

LENGTHS: tuple[int, ...] = (256, 512, 1024)


def runs() -> list[Record]:
    curve = [Measurement("perplexity", 9.0 + i, "", "lower", "test", seq_len=64 * 2**i)
             for i in range(3)]  # fmt: skip
    language: dict = {"task": "language_modeling", "dataset": "PG-19-sample"}
    language |= {"backbone": "GPT-2", "suite": "cab", "monitor": "perplexity", "extra": curve}
    made = [
        train(name, {"perplexity": 10.0 + i + seed}, seed=seed, **language)
        for i, name in enumerate(("softmax", "abc", "local_window"))
        for seed in (0, 1)
    ]
    made += [train("performer", status=Status.FAILED, error="boom", **language)]
    made += [train("softmax", {"accuracy": 0.9}), train("abc", {"accuracy": 0.4})]
    times = {"forward_time": {n: n / 1000 for n in LENGTHS}}
    made += [speed("abc", times, {"forward_time": {n: (n / 700) ** 2 for n in LENGTHS}})]
    return [*made, verify("abc", {"causal_self/leak_suffix": ""})]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = folder(tmp_path_factory.mktemp("results"), *runs())
    write_report([made], made / "report")
    return made


def test_the_page_joins_everything(results: Path) -> None:
    page = (results / "report" / "report.md").read_text()
    for section in ("Leaderboards", "Compositional Index", "Ours beside published numbers",
                    "Cost", "Claims", "Runs that did not end well", "Environment"):  # fmt: skip
        assert f"\n## {section}\n" in page
    assert "11 runs (10 ok, 1 failed)" in page
    assert "| performer | failed |" in page
    assert "| abc | 490 |" in page  # n / 1000 = (n / 700)^2


def test_every_file_that_the_page_names_exists(results: Path) -> None:
    page = (results / "report" / "report.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > 20
    for link in links:
        assert (results / "report" / link).stat().st_size > 0
    for kinds in ({".csv", ".md", ".tex"}, {".svg", ".png"}):
        assert kinds <= {Path(link).suffix for link in links} | {".md"}


def test_the_tidy_table_has_every_measurement(results: Path) -> None:
    with (results / "report" / "tables" / "measurements.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == sum(max(len(record.measurements), 1) for record in runs())


def test_no_published_number_stands_beside_unmarked_parts_of_its_data(results: Path) -> None:
    with (results / "report" / "tables" / "published.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["dataset"] for row in rows} == {"PG-19-sample"}
    assert {row["attention"] for row in rows if row["value"]} >= {"abc", "local_window", "s4d"}


def test_the_leaderboards_and_the_place_of_the_report_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(tmp_path, train("softmax", {"accuracy": 0.9}), train("abc", {"accuracy": 0.4}))
    assert main([tmp_path]) == 0
    printed = capsys.readouterr().out
    assert "Leaderboard, causal self" in printed
    assert "0.4000† (0.44×)" in printed
    assert f"report: {tmp_path / 'report' / 'report.md'}" in printed


def test_a_sweep_of_speed_ends_with_numbers_of_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = ({"forward_time": dict.fromkeys(LENGTHS, cost)} for cost in (0.5, 1.0))
    trained = train("abc", {"accuracy": 0.4})  # in a folder that holds such runs too
    folder(tmp_path, trained, speed("abc", *times))
    write_report([tmp_path], tmp_path / "report", "speed")
    printed = capsys.readouterr().out
    assert "0.50×" in printed
    assert "below 256" in printed
    assert "accuracy" not in printed


def test_several_folders_and_another_place(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", train("softmax", {"accuracy": 0.9}))
    two = folder(tmp_path / "two", train("abc", {"accuracy": 0.4}))
    assert main([str(one), str(two), f"out={tmp_path / 'out'}"]) == 0
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| softmax | **0.9000†** |" in page
    assert "| abc | 0.4000† (0.44×) |" in page
    assert not (one / "report").exists()


def test_what_the_reader_must_know_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = train("abc", {"accuracy": 0.4})
    other = Record(**{**vars(other), "environment": {"git_commit": "f" * 40, "git_dirty": True}})
    folder(tmp_path, train("softmax", {"accuracy": 0.9}), other)
    (tmp_path / "runs" / "broken.json").write_text("{")
    page = write_report([tmp_path], tmp_path / "report").read_text()
    for text in (page, capsys.readouterr().out):
        assert "broken.json" in text
        assert "records of 2 commits are mixed here" in text
        assert "0000000000 (1 runs)" in text
        assert "ffffffffff (1 runs)" in text
        assert "not committed" in text


def test_one_commit_needs_no_word(results: Path) -> None:
    assert "commits are mixed" not in (results / "report" / "report.md").read_text()


def test_a_folder_without_records_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(NoRecords, match="nowhere does not exist"):
        main([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="report needs a result folder"):
        main([])


def test_only_failures_still_make_a_report(tmp_path: Path) -> None:
    folder(tmp_path, train("abc", status=Status.OOM, error="no memory"))
    page = write_report([tmp_path], tmp_path / "report").read_text()
    assert "| abc | oom |" in page
    assert "no memory" in page


def test_a_report_again_gives_the_same_files(tmp_path: Path) -> None:
    folder(tmp_path, *runs())
    for out in ("a", "b"):
        write_report([tmp_path], tmp_path / out)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_report_does_not_wait_for_torch() -> None:
    script = "import sys, runners.report.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
