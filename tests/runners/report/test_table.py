import json
from pathlib import Path

import pytest

from attentions.base import Pattern
from runners.records import Measurement, Status
from runners.report.table import (
    COLUMNS,
    PATTERNS,
    SAMPLES,
    NoRecords,
    collect,
    known_patterns,
)
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
