from typing import Any

import pandas as pd
import pytest

from attentions.registry import names
from runners.records import Record
from runners.report.published.cab import (
    ATTENTIONS,
    METRICS,
    TASKS,
    comparison,
    in_cab_names,
    published_scores,
    read,
)
from runners.report.render import Table
from runners.report.scores import quality
from tests.runners.report.made import rows, train

LSTF: dict[str, Any] = {
    "task": "forecasting",
    "pattern": "noncausal_cross",
    "backbone": "Informer",
}
ETTH1 = {"features": "S", "input_len": 168, "label_len": 168, "horizon": 720}


def compared(*records: Record) -> Table | None:
    table = rows(list(records))
    return comparison(table, quality(table))


def lines(table: Table | None) -> dict[tuple[str, str], dict[str, str]]:
    assert table is not None
    told = [dict(zip(table.header, line, strict=True)) for line in table.lines]
    return {(line["attention"], line["metric"]): line for line in told}


def test_every_published_name_has_ours() -> None:
    tasks = pd.read_csv("results/published/cab_tasks.csv")
    assert set(tasks["attention"]) == set(ATTENTIONS)
    assert set(tasks["task"]) == set(TASKS.values())
    assert set(tasks["metric"]) == set(METRICS.values())


def test_the_names_of_ours_that_exist_are_those_of_the_registry() -> None:
    known = set(names())
    assert {"softmax", "local_window", "performer", "cosformer", "abc"} <= known
    assert {"softmax", "local_window", "performer", "cosformer", "abc"} <= set(ATTENTIONS.values())


def test_forecasting_is_matched_by_data_set_channels_and_lengths() -> None:
    record = train("abc", {"mse": 0.36, "mae": 0.5}, dataset="ETTh1", data=ETTH1, **LSTF)
    found = lines(compared(record))
    abc = found["abc", "MSE ↓"]
    assert abc["task"] == "LSTF ETTh1 univariate 168-720"
    assert (abc["ours"], abc["published"]) == ("0.3600†", "0.357")
    assert abc["published / softmax"] == "1.42×"
    assert found["cosformer", "MAE ↓"]["published"] == "0.483"
    assert found["cosformer", "MAE ↓"]["ours"] == "–"
    assert "suspected transposition" in found["softmax", "MAE ↓"]["source"]
    assert len(found) == 8  # four mechanisms, two metrics


@pytest.mark.parametrize(
    "other", [{"horizon": 48}, {"features": "M"}, {"input_len": 336}], ids=lambda other: str(other)
)
def test_another_setting_is_not_beside_the_published(other: dict) -> None:
    record = train("abc", {"mse": 0.36}, dataset="ETTh1", data=ETTH1 | other, **LSTF)
    assert compared(record) is None


def test_another_pattern_or_data_set_is_not_beside_the_published() -> None:
    other: dict[str, Any] = LSTF | {"pattern": "noncausal_self"}
    assert compared(train("abc", {"mse": 0.36}, dataset="ETTh1", data=ETTH1, **other)) is None
    assert compared(train("abc", {"mse": 0.36}, dataset="ETTm2", data=ETTH1, **LSTF)) is None
    assert compared(train("abc", {"accuracy": 0.9})) is None


def test_a_part_of_the_data_carries_its_mark_beside_a_published_number() -> None:
    table = compared(train("abc", {"mse": 0.1}, dataset="ETTh1-sample", data=ETTH1, **LSTF))
    assert table is not None
    assert all(line[0] == "LSTF ETTh1 univariate 168-720-sample" for line in table.lines)
    assert any(note.startswith("-sample: ours is on") for note in table.notes)
    assert table.data["dataset"].str.endswith("-sample").all()


def test_generated_data_are_never_beside_a_published_number() -> None:
    made = train("abc", {"mse": 0.1}, dataset="ETTh1-synthetic", data=ETTH1, **LSTF)
    assert compared(made) is None
    both = compared(made, train("local_window", {"mse": 0.3}, dataset="ETTh1",
                                data=ETTH1 | {"source": "x"}, **LSTF))  # fmt: skip
    assert not both.data["dataset"].str.contains("synthetic").any()  # type: ignore[union-attr]


def test_a_part_and_the_whole_of_the_data_are_not_mixed() -> None:
    table = compared(
        train("abc", {"mse": 0.1}, dataset="ETTh1-sample", data=ETTH1 | {"source": "x"}, **LSTF),
        train("abc", {"mse": 0.3}, dataset="ETTh1", data=ETTH1, **LSTF),
    )
    assert table is not None
    by_task = {(line[0], line[3]): line[4] for line in table.lines if line[2] == "MSE ↓"}
    assert by_task["LSTF ETTh1 univariate 168-720", "abc"] == "0.3000†"
    assert by_task["LSTF ETTh1 univariate 168-720-sample", "abc"] == "0.1000†"


def test_two_backbones_of_one_data_set_are_told_apart() -> None:
    speech: dict[str, Any] = {"task": "text_to_speech", "pattern": "noncausal_self"}
    backbones = ("FastSpeech2", "Transformer-TTS")
    table = compared(
        *(
            train("abc", {"mcd": 3.0 + i}, dataset="LJSpeech", backbone=name, model={"of": name},
                  directions={"mcd": "lower"}, **speech)
            for i, name in enumerate(backbones)
        )
    )  # fmt: skip
    assert table is not None
    mcd = {line[0]: line[4] for line in table.lines if line[2] == "MCD ↓" and line[3] == "abc"}
    assert mcd == {"TTS LJSpeech FastSpeech 2": "3.000†", "TTS LJSpeech Transformer-TTS": "4.000†"}


def test_the_file_wth_is_the_data_set_weather() -> None:
    weather = {"features": "M", "input_len": 720, "label_len": 336, "horizon": 720}
    found = lines(compared(train("abc", {"mse": 0.7}, dataset="WTH", data=weather, **LSTF)))
    assert found["abc", "MSE ↓"]["published"] == "0.678"


def test_spelling_of_data_set_and_backbone_does_not_matter() -> None:
    record = train(
        "local_window",
        {"perplexity": 20.0},
        task="language_modeling",
        dataset="pg19",
        backbone="gpt2",
    )
    assert lines(compared(record))["local_window", "PPL ↓"]["published"] == "19.73"


def test_the_backbone_tells_two_published_scores_apart() -> None:
    record = train(
        "abc",
        {"mcd": 3.0},
        task="text_to_speech",
        dataset="LJSpeech",
        backbone="FastSpeech 2",
        pattern="noncausal_self",
        directions={"mcd": "lower"},
    )
    assert lines(compared(record))["abc", "MCD ↓"]["published"] == "3.393"


def lstf_averages(missing: str = "") -> pd.DataFrame:
    """Every forecasting setting of CAB with CAB's own numbers for ABC, but for one."""
    detail = published_scores()
    detail = detail[detail["dataset"].str.contains("variate") & detail["attention"].eq("abc")]
    made = []
    for dataset, scores in detail.groupby("dataset"):
        name, features, lengths = str(dataset).split()
        if dataset == missing:
            continue
        past, horizon = map(int, lengths.split("-"))
        letter = "S" if features == "univariate" else "M"
        data = {"features": letter, "input_len": past, "horizon": horizon, "source": name}
        values = dict(zip(scores["metric"].str.lower(), scores["value"], strict=True))
        file = "WTH" if name == "Weather" else name
        made.append(train("abc", values, dataset=file, data=data, **LSTF))
    table = rows(made)
    found = in_cab_names(table, quality(table))
    return found[found["dataset"].isin(["ETT", "Weather", "ECL"])]


def test_cabs_forecasting_averages_come_out_of_its_own_settings() -> None:
    found = lstf_averages().set_index(["dataset", "metric"])["mean"]
    printed = read("tasks").query("task == 'LSTF' and attention == 'abc'")
    printed = printed.set_index(["dataset", "metric"])["value"]
    assert len(found) == 6
    # Printed to three decimals, as are the inputs.
    assert found.to_dict() == pytest.approx(printed.to_dict(), abs=6e-4)


def test_an_average_with_a_setting_missing_is_no_average() -> None:
    found = lstf_averages(missing="ETTh2 multivariate 720-720")
    assert set(found["dataset"]) == {"Weather", "ECL"}
