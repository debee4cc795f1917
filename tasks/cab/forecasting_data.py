"""Time series in windows, from a CSV file as published, or generated.

Sources: ETT (Zhou et al., Informer, AAAI 2021; CC BY-ND 4.0), Weather (`WTH`, from NOAA; public
domain) and Electricity (`ECL`) in the format and with the splits of Informer2020.
Departs from CAB: time features at the frequency of the data, where CAB gives hourly ones to the
quarter-hourly ETTm1; and the last, shorter test batch is kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tasks.base import TaskData

TARGETS = {"WTH": "WetBulbCelsius", "ECL": "MT_320"}
"""The target column of the data sets where it is not OT."""
DATE_FORMATS = ("ISO8601", "%m/%d/%Y %H:%M")


class Batch(NamedTuple):
    """Windows.

    Attributes:
        past: Standardised values (B, I, C).
        future: Standardised values (B, M, C), to forecast.
        times: Time features of both (B, I + M, F), in [-0.5, 0.5].
    """

    past: Tensor
    future: Tensor
    times: Tensor


@dataclass(frozen=True)
class Series:
    """A table of numbers over evenly spaced times.

    Attributes:
        name: The stem of its file.
        values: (rows, channels).
        dates: (rows,).
    """

    name: str
    values: np.ndarray
    dates: pd.DatetimeIndex


class Windows:
    """Windows of `input_len` past and `horizon` future rows, whole batches at once.

    Args:
        values: Standardised (rows, C).
        times: Time features (rows, F).
        starts: First row of each window, int64 (windows,).
        input_len: Past rows per window.
        horizon: Future rows per window.
    """

    def __init__(
        self, values: Tensor, times: Tensor, starts: Tensor, input_len: int, horizon: int
    ) -> None:
        self.values, self.times, self.starts = values, times, starts
        self.input_len = input_len
        self.offsets = torch.arange(input_len + horizon)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, rows: Tensor) -> Batch:
        steps = self.starts[rows][:, None] + self.offsets  # (B, I + M)
        values = self.values[steps]
        return Batch(values[:, : self.input_len], values[:, self.input_len :], self.times[steps])


class ForecastingData(TaskData):
    """The windows of one series, split by time and standardised by its training rows.

    Args:
        source: A CSV file (or .csv.gz) with a column `date`; or "generated", see `announced`.
        features: "S" for the target column alone (univariate), "M" for every column.
        target: The target column; None for the one of the data set, else OT.
        input_len: Past rows per window.
        label_len: How many of them start the decoder.
        horizon: Future rows per window.
        num_windows: Generated windows, for training; an eighth as many for each evaluation.
    """

    train: Windows
    validation: Windows
    test: Windows

    def __init__(
        self,
        *,
        source: str,
        features: str = "S",
        target: str | None = None,
        input_len: int,
        label_len: int,
        horizon: int,
        num_windows: int = 4096,
        batch_size: int,
        eval_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed)
        if features not in ("S", "M"):
            raise ValueError(
                f"features must be S (target alone) or M (all columns), got {features!r}"
            )
        if min(input_len, horizon) < 1 or not 0 <= label_len <= input_len:
            raise ValueError(
                "input_len and horizon must be positive and label_len between 0 and input_len, "
                f"got {input_len}, {horizon} and {label_len}"
            )
        if source == "generated" and (features != "M" or input_len <= horizon):
            raise ValueError(
                "generated series have features M and an input_len greater than their horizon, "
                f"got {features}, {input_len} and {horizon}"
            )
        if source == "hub":
            raise ValueError(
                "forecasting has no data set on the hub; give the path of a CSV file, as of "
                "github.com/zhouhaoyi/ETDataset"
            )
        self.source, self.features, self.target = source, features, target
        self.input_len, self.label_len, self.horizon = input_len, label_len, horizon
        self.num_windows = num_windows

    @property
    def dataset(self) -> str:
        """The stem of the file, as ETTh1."""
        return "announced-synthetic" if self.source == "generated" else stem(Path(self.source))

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes of the windows."""
        return {
            "channels": self.train.values.shape[1],
            "num_time_features": self.train.times.shape[1],
            "input_len": self.input_len,
            "label_len": self.label_len,
            "horizon": self.horizon,
        }

    def setup(self, stage: str | None = None) -> None:
        """Read and split, or generate."""
        if hasattr(self, "train"):
            return
        if self.source != "generated":
            self._split(read_csv(Path(self.source), self.features, self.target))
            return
        evaluation = self.num_windows // 8
        self.train, self.validation, self.test = (
            self._generate(*part)
            for part in [
                (self.num_windows, self.seed),
                (evaluation, 2**40),
                (evaluation, 2**40 + 1),
            ]
        )

    def _split(self, series: Series) -> None:
        spans = split(series, self.input_len, self.horizon)
        train_rows = series.values[slice(*spans[0])]
        mean, std = train_rows.mean(axis=0), train_rows.std(axis=0)
        values = torch.from_numpy((series.values - mean) / np.where(std > 0, std, 1.0)).float()
        times = time_features(series)
        last = self.input_len + self.horizon - 1
        self.train, self.validation, self.test = (
            Windows(values, times, torch.arange(begin, end - last), self.input_len, self.horizon)
            for begin, end in spans
        )

    def _generate(self, num_windows: int, seed: int) -> Windows:
        windows = announced(num_windows, self.input_len, self.horizon, seed)
        values = windows.flatten(0, 1)
        times = torch.zeros(len(values), 1)  # they have no calendar
        starts = torch.arange(num_windows) * windows.shape[1]
        return Windows(values, times, starts, self.input_len, self.horizon)


def announced(num_windows: int, input_len: int, horizon: int, seed: int) -> Tensor:
    """Series in which the past says what each phase is worth, and which phases are to come.

    The channels are the cosine and the sine of a phase, and a value. In the first part of the
    past each of `input_len` - `horizon` phases, evenly spaced from a random turn, is seen once, in
    random order, with a random value. In the last `horizon` rows the phases of the future are
    announced, and the value is zero. The future has the announced phases with their values.

    So the decoder, which is given nothing, must read the announced rows (noncausal cross); and
    what it needs of them, an encoder has to look up in other rows by their phase (noncausal self).

    Returns:
        (num_windows, input_len + horizon, 3), each channel of mean 0 and variance 1 but for the
        zeros.
    """
    generator = torch.Generator().manual_seed(seed)
    num_phases = input_len - horizon
    turn = torch.rand(num_windows, 1, generator=generator)
    order = torch.rand(num_windows, num_phases, generator=generator).argsort(dim=1)
    phase = 2 * math.pi * (order + turn) / num_phases
    value = torch.randn(num_windows, num_phases, generator=generator)
    coming = torch.randint(num_phases, (num_windows, horizon), generator=generator)
    next_phase, next_value = phase.gather(1, coming), value.gather(1, coming)
    phase = torch.cat([phase, next_phase, next_phase], dim=1)
    value = torch.cat([value, torch.zeros_like(next_value), next_value], dim=1)
    return torch.stack([math.sqrt(2) * phase.cos(), math.sqrt(2) * phase.sin(), value], dim=-1)


def stem(path: Path) -> str:
    """The name of a file without .csv or .csv.gz."""
    return path.name.removesuffix(".gz").removesuffix(".csv")


def read_csv(path: Path, features: str, target: str | None) -> Series:
    """A table with a column `date` and columns of numbers.

    Raises:
        ValueError: If the file, a column, a date or a number is missing or malformed.
    """
    if not path.is_file():
        raise ValueError(f"forecasting: no file {path}")
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a readable CSV file: {str(error).strip()}") from error
    target = target or TARGETS.get(stem(path), "OT")
    for column in ("date", target):
        if column not in table.columns:
            known = ", ".join(table.columns[:12])
            raise ValueError(f"{path}: no column {column!r}; it has: {known}")
    columns = [target] if features == "S" else [name for name in table.columns if name != "date"]
    values = np.stack([_numbers(path, table[name]) for name in columns], axis=1)
    return Series(stem(path), values, _dates(path, table["date"]))


def _numbers(path: Path, column: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    _refuse_first(path, column, ~np.isfinite(numbers), "a number")
    return numbers


def _dates(path: Path, column: pd.Series) -> pd.DatetimeIndex:
    parsed = [pd.to_datetime(column, format=f, errors="coerce") for f in DATE_FORMATS]
    dates = min(parsed, key=lambda dates: dates.isna().sum())
    _refuse_first(
        path, column, dates.isna().to_numpy(), "a date as 2016-07-01 00:00:00 or 7/1/2016 0:00"
    )
    return pd.DatetimeIndex(dates)


def _refuse_first(path: Path, column: pd.Series, bad: np.ndarray, expected: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        found = "nothing" if pd.isna(column.iloc[row]) else repr(str(column.iloc[row]))
        raise ValueError(
            f"{path}: row {row + 1}, column {column.name!r}: expected {expected}, got {found}"
        )


def split(series: Series, input_len: int, horizon: int) -> Sequence[tuple[int, int]]:
    """First row and end of the training, validation and test rows.

    ETT: 12, 4 and 4 months of 30 days. Else: 70, 10 and 20 percent. Validation and test begin
    `input_len` rows earlier, so that they forecast every row of their own.

    Raises:
        ValueError: If there are too few rows for one window in each part.
    """
    num_rows = len(series.values)
    if series.name.startswith("ETT"):
        month = 30 * pd.Timedelta(days=1) // _step(series)
        ends = [12 * month, 16 * month, 20 * month]
    else:
        ends = [int(0.7 * num_rows), num_rows - int(0.2 * num_rows), num_rows]
    spans = [
        (0, ends[0]),
        (ends[0] - input_len, ends[1]),
        (ends[1] - input_len, ends[2]),
    ]
    shortest = min(end - begin for begin, end in spans)
    if ends[2] > num_rows or spans[1][0] < 0 or shortest < input_len + horizon:
        raise ValueError(
            f"{series.name}: too few rows for windows of {input_len} + {horizon}: {num_rows} rows "
            f"split at {ends}"
        )
    return spans


def _step(series: Series) -> pd.Timedelta:
    """The time between two rows, which must be the same everywhere."""
    steps = np.diff(series.dates.to_numpy())
    step = steps[0] if len(steps) else np.timedelta64(0)
    uneven = steps != step
    if not len(steps) or step <= np.timedelta64(0) or uneven.any():
        row = int(uneven.argmax()) + 2 if len(steps) else 1
        raise ValueError(
            f"{series.name}: unknown frequency: the dates must rise by equal steps, "
            f"row {row} ({series.dates[row - 1]}) does not"
        )
    return pd.Timedelta(step)


def time_features(series: Series) -> Tensor:
    """What the calendar says of each row: (rows, F), each feature in [-0.5, 0.5].

    Weekday, day of the month and day of the year; the hour below steps of a day; the minute
    below steps of an hour.

    Raises:
        ValueError: If the steps are not whole minutes, hours or days, or longer than a day.
    """
    step, dates = _step(series), series.dates
    if step % pd.Timedelta(minutes=1) or step > pd.Timedelta(days=1):
        raise ValueError(
            f"{series.name}: unknown frequency: rows are {step} apart, expected whole minutes, "
            "hours or one day"
        )
    features = [dates.dayofweek / 6, (dates.day - 1) / 30, (dates.dayofyear - 1) / 365]
    if step < pd.Timedelta(days=1):
        features.insert(0, dates.hour / 23)
    if step < pd.Timedelta(hours=1):
        features.insert(0, dates.minute / 59)
    return torch.from_numpy(np.stack(features, axis=1) - 0.5).float()
