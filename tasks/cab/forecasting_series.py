"""A table of numbers over time: read from a CSV file, split, and dated by calendar features.

Sources: ETT (Zhou et al., Informer, AAAI 2021; CC BY-ND 4.0), Weather (`WTH`, from NOAA; public
domain) and Electricity (`ECL`), in the format and with the splits of Informer2020.
Departs from CAB: time features at the frequency of the data, where CAB gives hourly ones to the
quarter-hourly ETTm1.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

TARGETS = {"WTH": "WetBulbCelsius", "ECL": "MT_320"}
"""The target column of the data sets where it is not OT."""
DATE_FORMATS = ("ISO8601", "%m/%d/%Y %H:%M")


@dataclass(frozen=True)
class Series:
    """A table of numbers over evenly spaced times.

    Attributes:
        path: Its file.
        values: (rows, channels).
        dates: (rows,).
    """

    path: Path
    values: np.ndarray
    dates: pd.DatetimeIndex


def stem(path: Path) -> str:
    """The name of a file without .csv or .csv.gz."""
    return path.name.removesuffix(".gz").removesuffix(".csv")


def read_csv(path: Path, features: str, target: str | None) -> Series:
    """A table with a column `date` and columns of numbers.

    Args:
        path: The file, .csv or .csv.gz.
        features: "S" to keep the target column alone, "M" every column.
        target: The target column; None for the one of the data set, else OT.

    Raises:
        ValueError: If the file, a column, a date or a number is missing or malformed. Rows are
            counted from 1, below the header.
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
            near = difflib.get_close_matches(column, table.columns, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            known = ", ".join(map(str, table.columns[:12]))
            raise ValueError(f"{path}: no column {column!r}{hint} (it has: {known})")
    if len(table) < 2:
        raise ValueError(f"{path}: too few rows: expected two at least, got {len(table)}")
    columns = [target] if features == "S" else [name for name in table.columns if name != "date"]
    values = np.stack([_numbers(path, table[name]) for name in columns], axis=1)
    return Series(path, values, _dates(path, table["date"]))


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
    if stem(series.path).startswith("ETT"):
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
            f"{series.path}: too few rows for windows of {input_len} + {horizon}: "
            f"{num_rows}, split at {ends}"
        )
    return spans


def _step(series: Series) -> pd.Timedelta:
    """The time between two rows, which must be the same everywhere."""
    steps = np.diff(series.dates.to_numpy())
    step = steps[0]
    uneven = steps != step
    if uneven.any() or step <= np.timedelta64(0):
        row = int(uneven.argmax()) + 2
        raise ValueError(
            f"{series.path}: unknown frequency: row {row}, column 'date': expected dates that rise "
            f"by equal steps, got {series.dates[row - 1]} after {series.dates[row - 2]}"
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
            f"{series.path}: unknown frequency: expected rows that are whole minutes, hours or a "
            f"day apart, got {step}"
        )
    features = [dates.day_of_week / 6, (dates.day - 1) / 30, (dates.day_of_year - 1) / 365]
    if step < pd.Timedelta(days=1):
        features.insert(0, dates.hour / 23)
    if step < pd.Timedelta(hours=1):
        features.insert(0, dates.minute / 59)
    return torch.from_numpy(np.stack(features, axis=1) - 0.5).float()
