import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attentions.base import Pattern
from runners.records import Measurement, Record, Status
from runners.report.collection import NoRecords, collect
from runners.report.report import write_report
from runners.report.scores import quality
from runners.report.table import COLUMNS, PATTERNS, SAMPLES, known_patterns, without_repeats
from tests.runners.report.made import folder, rows, speed, train


def test_the_patterns_are_those_of_the_mechanisms() -> None:
    assert list(PATTERNS) == [*(pattern.value for pattern in Pattern), "all"]


def test_a_row_per_measurement_with_the_labels_of_its_run() -> None:
    table = rows(train("abc", {"accuracy": 0.5, "nll": 2.0}, seed=3))
    assert list(table.columns) == [*COLUMNS, SAMPLES]
    assert list(table["metric"]) == ["accuracy", "nll"]
    assert list(table["direction"]) == ["higher", "lower"]
    first = table.iloc[0]
    assert (first["task"], first["dataset"], first["attention"]) == ("mqar", "mqar", "abc")
    assert (first["value"], first["seed"], first["status"]) == (0.5, "3", "ok")


def test_a_run_that_measured_nothing_is_a_row_with_its_reason() -> None:
    table = rows(train("abc", status=Status.OOM, error="no memory for 3 GiB"))
    assert len(table) == 1
    assert table["status"].item() == "oom"
    assert table["error"].item() == "no memory for 3 GiB"
    assert table["value"].isna().item()


def test_the_baseline_beside_a_mechanism_is_not_the_mechanism() -> None:
    table = rows(speed("abc", {"forward_time": {256: 1.0}}, {"forward_time": {256: 2.0}}))
    found = dict(zip(table["attention"], table["is_baseline"], strict=True))
    assert found == {"abc": False, "softmax": True}


def test_a_seed_is_no_setting() -> None:
    table = rows(train(seed=seed) for seed in range(3))
    for column in ("variant", "setting", "task_setting"):
        assert set(table[column]) == {""}


def test_settings_that_differ_are_told_apart_by_what_they_set() -> None:
    by_lr = rows(train(model={"lr": lr}) for lr in (0.001, 0.01))
    assert list(by_lr["setting"]) == ["lr=0.001", "lr=0.01"]
    by_horizon = rows(train(data={"horizon": horizon}) for horizon in (48, 720))
    assert list(by_horizon["task_setting"]) == ["horizon=48", "horizon=720"]
    by_window = rows(train("local", settings={"window": window}) for window in (8, 16))
    assert list(by_window["variant"]) == ["window=8", "window=16"]
    by_batch = rows(train(data={"batch_size": size}) for size in (8, 16))
    assert list(by_batch["setting"]) == ["batch_size=8", "batch_size=16"]


def test_settings_of_one_mechanism_do_not_mark_another() -> None:
    table = rows(train("local", settings={"window": 8}), train("abc", settings={"window": 9}))
    assert set(table["variant"]) == {""}


def test_a_setting_that_only_one_run_has_differs() -> None:
    table = rows(train(), train(model={"depth": 4}))
    assert sorted(table["setting"]) == ["", "depth=4"]


def test_an_overridden_setting_shows_even_where_all_runs_have_it() -> None:
    table = rows(train("local", settings={"window": 8}, variant="attention.window=8"))
    assert list(table["variant"]) == ["window=8"]


def test_many_differing_settings_are_cut_short_but_stay_apart() -> None:
    many = [{f"size_{i}": size + i for i in range(5)} for size in (10, 20)]
    told = list(rows(train(model=model) for model in many)["setting"])
    assert all(text.startswith("size_0=") and "+3 more" in text for text in told)
    same_start = [{"a": 1, "b": 1, "c": 1, "d": 1}, {"a": 2, "b": 2, "c": 2, "d": 2}]
    same_start.append({"a": 1, "b": 1, "c": 1, "d": 3})
    told = list(rows(train(model=model) for model in same_start)["setting"])
    assert len(set(told)) == 3


def test_a_run_that_failed_early_is_put_with_the_runs_of_its_task() -> None:
    table = rows(
        train("softmax", {"accuracy": 1.0}, dataset="pairs", backbone="Gpt"),
        train("abc", status=Status.UNSUPPORTED, dataset=None, backbone=None),
    )
    assert list(table["dataset"]) == ["pairs", "pairs"]
    assert list(table["backbone"]) == ["Gpt", "Gpt"]
    assert set(table["setting"]) == {""}


def test_a_failed_run_is_not_put_with_a_data_set_that_it_may_not_have() -> None:
    table = rows(
        train("softmax", {"accuracy": 1.0}, data={"source": "a"}, dataset="a"),
        train("softmax", {"accuracy": 1.0}, data={"source": "b"}, dataset="b"),
        train("abc", status=Status.FAILED, data={"source": "b"}, dataset=None),
        train("abc", status=Status.FAILED, data={"source": "c"}, dataset=None),
    )
    assert list(table["dataset"]) == ["a", "b", "b", ""]


def test_devices_that_differ_are_told_apart() -> None:
    one, other = train(seed=0), train(seed=1)
    other = type(other)(**{**vars(other), "labels": {**other.labels, "device": "cuda"}})
    assert sorted(rows(one, other)["setting"]) == ["device=cpu", "device=cuda"]


def test_how_much_is_measured_does_not_change_a_cost_but_threads_do() -> None:
    times = {"forward_time": {256: 1.0}}
    made = [
        speed("abc", times, times, settings={"seq_lens": lengths, "width": width})
        for lengths, width in (([256], 1), ([512], 1), ([256], 2))
    ]
    assert sorted(set(rows(made)["setting"])) == ["width=1", "width=2"]
    threads = [speed("abc", times, times, num_threads=n, seed=n) for n in (1, 2)]
    assert sorted(set(rows(threads)["setting"])) == ["num_threads=1", "num_threads=2"]


def test_an_unreadable_record_is_named_and_left_out(tmp_path: Path) -> None:
    folder(tmp_path, train("abc", {"accuracy": 1.0}))
    (tmp_path / "runs" / "broken.json").write_text('{"run_id": ')
    found = collect([tmp_path])
    assert len(found.records) == 1
    assert len(found.problems) == 1
    assert "broken.json" in found.problems[0]


def test_a_folder_without_records_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(NoRecords, match=r"nowhere does not exist \(expected .*nowhere/runs"):
        collect([tmp_path / "nowhere"])
    (tmp_path / "runs").mkdir()
    with pytest.raises(NoRecords, match="holds no records"):
        collect([tmp_path])
    (tmp_path / "runs" / "x.json").write_text("[]")
    with pytest.raises(NoRecords, match=r"no readable record in .*x\.json"):
        collect([tmp_path])


def test_the_same_run_in_two_folders_counts_once(tmp_path: Path) -> None:
    early = train("abc", {"accuracy": 0.1}, started_at="2025-01-01")
    late = train("abc", {"accuracy": 0.2}, started_at="2025-01-02")
    failed = train("abc", status=Status.FAILED, started_at="2025-01-03")
    folders = [folder(tmp_path / str(i), record) for i, record in enumerate((late, failed, early))]
    found = collect(folders)
    assert [record.measurements[0].value for record in found.records] == [0.2]
    assert found.problems == ("2 runs are in more than one folder: the later one counts",)


def of_code(
    name: str, code: str, value: float, started_at: str, settings_id: str = "s", **fields: Any
) -> Record:
    """A run of one experiment, its identity that of its code."""
    made = train(name, {"accuracy": value}, started_at=started_at, **fields)
    sources = {"my_attention": code}
    return replace(made, run_id=f"{name}{code}", settings_id=settings_id, sources=sources)


def test_a_record_of_other_code_is_superseded_by_the_newest(tmp_path: Path) -> None:
    made = [
        of_code("mine", "old", 0.9, "2025-01-01"),
        of_code("mine", "new", 0.4, "2025-01-03"),
        of_code("mine", "older", 0.8, "2024-01-01"),
        of_code("abc", "old", 0.5, "2024-01-01", settings_id="other"),
    ]
    folder(tmp_path, *made)
    found = collect([tmp_path])
    assert {record.run_id for record in found.records} == {"minenew", "abcold"}
    (problem,) = found.problems
    assert problem.startswith("2 records are superseded by newer ones of other code or data")
    assert "mine mqar causal_self seed 0 of 2025-01-01 (my_attention changed since)" in problem
    page = write_report([tmp_path], tmp_path / "report").read_text()
    assert "2 records are superseded" in page.split("\n## ")[0]
    assert "0.9000" not in page
    assert "0.4000†" in page


def test_code_that_fails_now_has_no_number_of_before(tmp_path: Path) -> None:
    broken = of_code("mine", "new", 0.0, "2025-01-03", status=Status.FAILED)
    folder(tmp_path, of_code("mine", "old", 0.9, "2025-01-01"), broken)
    assert [record.run_id for record in collect([tmp_path]).records] == ["minenew"]


def test_records_from_before_there_was_a_settings_id_stand_for_themselves(tmp_path: Path) -> None:
    folder(tmp_path, *(train("abc", {"accuracy": 0.1}, seed=seed) for seed in range(3)))
    found = collect([tmp_path])
    assert (len(found.records), found.problems) == (3, ())


def of_class(path: str, value: float, seed: int = 0) -> Record:
    made = train(path.rsplit(".", 1)[-1], {"accuracy": value}, seed=seed)
    config = {**made.config, "attention": {"_target_": path}}
    labels = {**made.labels, "attention_class": path}
    return replace(made, run_id=f"{path}{seed}", config=config, labels=labels)


def test_two_classes_of_one_name_are_told_apart_by_their_modules() -> None:
    table = rows(of_class("v1.Mine", 0.1), of_class("v2.Mine", 0.9), of_class("v1.Other", 0.5))
    assert list(table["attention"]) == ["v1.Mine", "v2.Mine", "Other"]
    found = quality(table).set_index("attention")
    assert found["mean"].to_dict() == {"v1.Mine": 0.1, "v2.Mine": 0.9, "Other": 0.5}
    deep = rows(of_class("a.x.m.Mine", 0.1), of_class("a.y.m.Mine", 0.9))
    assert list(deep["attention"]) == ["x.m.Mine", "y.m.Mine"]
    nested = rows(of_class("m.Mine", 0.1), of_class("a.m.Mine", 0.9))
    assert len(set(nested["attention"])) == 2


def test_a_class_with_the_name_of_a_shipped_mechanism_is_not_it() -> None:
    shipped = of_class("attentions.softmax.softmax.softmax", 0.9)
    table = rows(shipped, of_class("mine.softmax", 0.1))
    assert list(table["attention"]) == ["softmax", "mine.softmax"]


def test_a_seed_that_is_there_twice_is_named_and_counts_once(tmp_path: Path) -> None:
    made = [train("abc", {"accuracy": 0.5}, seed=seed) for seed in (0, 1)]
    again = train("abc", {"accuracy": 0.5}, seed=1, started_at="2025-01-02")
    again = replace(again, run_id="again", config={**again.config, "device": "cpu"})
    folder(tmp_path, *made, again)
    page = write_report([tmp_path], tmp_path / "report").read_text()
    assert "1 runs repeat a seed of the same settings" in page
    assert "abc mqar causal\\_self seed 1" in page
    assert "0.5000 (2 equal)" in page


def test_seeds_of_parts_are_seeds_too() -> None:
    made = [train("abc", {"accuracy": s / 9}, data={"seed": s}) for s in (0, 1)]
    table, problems = without_repeats(rows(made))
    assert list(table["seed"]) == ["0", "0, data.seed=1"]
    assert problems == []


def test_lengths_and_steps_are_whole_numbers_or_missing(tmp_path: Path) -> None:
    curve = [Measurement("nll", 1.0, "", "lower", "validation", step=100)]
    store = folder(tmp_path, train(scores={"nll": 2.0}, extra=curve))
    assert json.loads(next((store / "runs").glob("*.json")).read_text())["labels"]["seed"] == 0
    table = rows(collect([store]).records)
    assert table["step"].isna().tolist() == [True, False]
    assert table["step"].iloc[1] == 100


def test_patterns_come_in_one_order_and_unknown_ones_last() -> None:
    made = [train(pattern=pattern) for pattern in ("zigzag", "causal_cross", "noncausal_self")]
    assert known_patterns(rows(made)) == ["noncausal_self", "causal_cross", "zigzag"]
