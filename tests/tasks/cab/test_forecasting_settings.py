"""The settings of CAB's forecasting table: as published, and of the file that they name."""

import csv
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from attentions.base import Pattern
from attentions.registry import CONF, factory, load
from tasks.base import AttentionSlots
from tasks.cab.forecasting.data import ForecastingData
from tasks.cab.forecasting.series import read_csv

FOLDER = CONF / "task" / "forecasting"
SETTINGS = sorted(path.stem for path in FOLDER.glob("*_[sm].yaml"))
PUBLISHED = CONF.parent / "results" / "published" / "cab_lstf_detail.csv"
STATED = {"univariate": "S", "multivariate": "M"}
CHANNELS = {"ETTh1": 7, "ETTh2": 7, "ETTm1": 7, "ECL": 321, "WTH": 12}


@functools.cache
def composed(name: str) -> DictConfig:
    choice = [f"task=forecasting/{name}", "task.data.source=somewhere", "pattern=noncausal_cross"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", choice)


def data_of(name: str, source: str) -> ForecastingData:
    return ForecastingData(**{**_arguments(composed(name).task.data), "source": source})


def _arguments(settings: DictConfig) -> dict[str, Any]:
    return {str(key): settings[key] for key in settings if key != "_target_"}


def test_the_files_are_the_rows_of_the_published_table() -> None:
    with PUBLISHED.open() as file:
        rows = [row for row in csv.DictReader(file) if row["setting"] in STATED]
    lengths = ("input_length", "label_length", "prediction_length")
    expected = {
        (
            row["dataset"].replace("Weather", "WTH"),
            STATED[row["setting"]],
            *(int(row[name]) for name in lengths),
        )
        for row in rows
    }
    ours = {}
    for name in SETTINGS:
        data = composed(name).task.data
        ours[name] = (data.series, data.features, data.input_len, data.label_len, data.horizon)
    assert len(SETTINGS) == len(expected) == 10
    assert set(ours.values()) == expected
    for name, (series, features, *_) in ours.items():
        assert name == f"{series.lower().replace('wth', 'weather')}_{features.lower()}"


@pytest.mark.parametrize("name", SETTINGS)
def test_each_is_the_reference_model_with_its_own_depth_and_repeats(name: str) -> None:
    config = composed(name)
    model, data = config.task.model, config.task.data
    is_deep = data.series in ("ECL", "WTH")
    assert (model.num_encoder_layers, model.num_decoder_layers) == ((3, 2) if is_deep else (2, 1))
    assert (model.embed_dim, model.num_heads, model.ffn_dim) == (512, 8, 2048)
    assert (model.dropout, model.lr, data.batch_size) == (0.05, 1e-4, 32)
    assert (config.task.trainer.max_epochs, config.task.fit.patience) == (6, 3)
    assert config.task.fit.monitor == "mse"
    assert data.time_features == ("hourly" if data.series == "ETTm1" else "auto")
    head = (FOLDER / f"{name}.yaml").read_text()
    assert f"task=forecasting/{name} task.data.source={data.series}.csv" in head
    assert f"seed={'0,1,2' if is_deep else '0,1,2,3,4'}\n" in head


@pytest.mark.parametrize("name", ["etth1_s", "weather_m"])
def test_its_parameters_are_as_many_as_the_reference_code_has(name: str) -> None:
    """By the formulas of Informer2020's modules, which have a bias each but the embedding's."""
    task = composed(name).task
    with torch.device("meta"):
        model = instantiate(task.model, _partial_=True)(
            slots=AttentionSlots(factory(load("softmax")), Pattern.NONCAUSAL_CROSS),
            channels=(channels := 12 if name == "weather_m" else 1),
            num_time_features=4,
            **{key: task.data[key] for key in ("input_len", "label_len", "horizon")},
        )
    width, inner = 512, 2048
    linear = width * width + width
    attention, norm = 4 * linear, 2 * width
    ffn = width * inner + inner + inner * width + width
    embedding = channels * 3 * width + width + 4 * width + width  # convolution, then time features
    encoders, decoders = (3, 2) if name == "weather_m" else (2, 1)
    distilling = 3 * width * width + width + norm
    expected = 2 * embedding + 2 * norm + channels * (width + 1)
    expected += encoders * (attention + ffn + 2 * norm) + (encoders - 1) * distilling
    expected += decoders * (2 * attention + ffn + 3 * norm)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("source", ["ETTh2.csv", "data/etth2.csv.gz", "ETTh1.txt", "generated"])
def test_a_file_of_another_name_is_refused_in_one_line(source: str) -> None:
    with pytest.raises(ValueError, match="settings are those of ETTh1") as raised:
        data_of("etth1_s", source)
    told = str(raised.value)
    assert told.endswith(
        f"source must be ETTh1.csv or ETTh1.csv.gz, got {source!r} "
        "(task.data.series=null takes any file)"
    )
    for named in ("ETTh1.csv", "/somewhere/etth1.CSV.GZ"):
        assert data_of("etth1_s", named).split == "ett"


def test_quarter_hours_can_have_the_features_of_hours(tmp_path: Path) -> None:
    dates = pd.date_range("2016-07-01 13:45", periods=200, freq="15min").astype(str)
    frame = pd.DataFrame({"date": dates, "OT": np.arange(200.0) ** 2})
    frame.to_csv(tmp_path / "some.csv", index=False)
    sizes: dict[str, Any] = {"input_len": 10, "label_len": 4, "horizon": 5, "batch_size": 8}
    times = {}
    for calendar in ("auto", "hourly"):
        data = ForecastingData(source=str(tmp_path / "some.csv"), time_features=calendar, **sizes)
        data.setup("fit")
        times[calendar] = data.train.times
        assert data.facts["num_time_features"] == times[calendar].shape[1]
    assert torch.equal(times["hourly"], times["auto"][:, 1:])  # all but the minute
    with pytest.raises(ValueError, match="time_features must be one of auto, hourly, got 'day'"):
        ForecastingData(source="some.csv", time_features="day", **sizes)


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("etth2_m", (7_201, 2_161, 2_161)),  # 8,640 - 720 - 720 + 1; 2,880 - 720 + 1
        ("ettm1_s", (33_505, 10_849, 10_849)),  # 34,560 - 384 - 672 + 1; 11,520 - 672 + 1
        ("weather_s", (23_105, 2_789, 6_293)),  # of 24,544, 3,508 and 7,012 rows
    ],
)
def test_the_published_files_give_the_windows_of_the_reference_code(
    real_data: Path, name: str, windows: tuple[int, int, int]
) -> None:
    series = composed(name).task.data.series
    data = data_of(name, str(real_data / "timeseries" / f"{series}.csv.gz"))
    data.setup("fit")
    assert tuple(map(len, (data.train, data.validation, data.test))) == windows
    is_multivariate = name.endswith("_m")
    assert data.facts["channels"] == (CHANNELS[series] if is_multivariate else 1)
    assert data.facts["num_time_features"] == 4


@pytest.mark.slow
def test_electricity_of_321_clients_is_read_and_split(tmp_path: Path) -> None:
    """A file of ECL's shape: 26,304 hourly rows from 2012 on, in numbers of one digit."""
    rows, clients = 26_304, 321
    dates = pd.date_range("2012-01-01", periods=rows, freq="1h").astype(str)
    names = ",".join(["date", *(f"MT_{client:03}" for client in range(clients))])
    digits = np.full((rows, 2 * clients), ord(","), np.uint8)
    drawn = np.random.default_rng(0).integers(10, size=(rows, clients))
    digits[:, 1::2] = ord("0") + drawn
    lines = [date + digits[row].tobytes().decode() for row, date in enumerate(dates)]
    path = tmp_path / "ECL.csv"
    path.write_text("\n".join([names, *lines]) + "\n")
    all_clients = data_of("ecl_m", str(path))
    all_clients.setup("fit")
    # int(.7 n) = 18,412 and int(.2 n) = 5,260 rows, 2,632 between them
    windows = (18_412 - 336 - 960 + 1, 2_632 - 960 + 1, 5_260 - 960 + 1)
    parts = (all_clients.train, all_clients.validation, all_clients.test)
    assert tuple(map(len, parts)) == windows
    batch = all_clients.test[torch.tensor([0, windows[2] - 1])]
    assert [tuple(part.shape) for part in batch] == [(2, 336, 321), (2, 960, 321), (2, 1296, 4)]
    train = drawn[:18_412]
    expected = (drawn[-960:] - train.mean(axis=0)) / train.std(axis=0)
    np.testing.assert_allclose(batch.future[1].numpy(), expected, rtol=1e-5, atol=1e-5)
    short = tmp_path / "short" / "ECL.csv"
    short.parent.mkdir()
    short.write_text("\n".join([names, *lines[:5]]))
    one = read_csv(short, "S", None)
    assert list(one.columns) == ["MT_320"]
    assert one.values[:, 0].tolist() == drawn[:5, 320].tolist()
