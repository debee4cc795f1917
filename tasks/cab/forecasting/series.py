"""A table of numbers over time: read from a CSV file, split, and dated by calendar features.

Sources: ETT (Zhou et al., Informer, AAAI 2021; CC BY-ND 4.0), Weather (`WTH`, from NOAA; public
domain) and Electricity (`ECL`), in the format and with the splits of Informer2020.
Departs from CAB: a choice of time features. At the frequency of the data they tell the quarters of
an hour apart; CAB gives the quarter-hourly ETTm1 those of hours ("hourly").
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

TARGETS = {"wth": "WetBulbCelsius", "ecl": "MT_320"}
"""The target column of the data sets where it is not OT."""
DATE_FORMATS = ("ISO8601", "%m/%d/%Y %H:%M")
SPLITS = ("auto", "ett", "ratio")
"""How a series is split by time; see `split`."""
CALENDARS = ("auto", "hourly")
"""Which time features rows have; see `time_features`."""


@dataclass(frozen=True)
class Series:
    """A table of numbers over evenly spaced times.

    Attributes:
        path: Its file.
        columns: The names of the channels.
        values: (rows, channels).
        dates: (rows,).
    """

    path: Path
    columns: Sequence[str]
    values: np.ndarray
    dates: pd.DatetimeIndex


def stem(path: Path) -> str:
    """The name of a file without .csv or .csv.gz."""
    return re.sub(r"\.csv(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def read_csv(path: Path, features: str, target: str | None) -> Series:
    """A table with a column `date` and columns of numbers.

    Args:
        path: The file, .csv or .csv.gz.
        features: "S" to keep the target column alone, "M" every column.
        target: The target column; None for the one of the data set, else OT.

    Raises:
        ValueError: If the file, a column, a date or a number is missing or malformed, or a column
            of "M" is an index. Rows are counted from 1, below the header.
    """
    table, names = _read(path)
    target = target or TARGETS.get(stem(path).lower(), "OT")
    for column in ("date", target):
        if column not in table.columns:
            near = difflib.get_close_matches(column, table.columns, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            known = ", ".join(map(str, table.columns[:12]))
            raise ValueError(f"{path}: no column {column!r}{hint} (it has: {known})")
    if len(table) < 2:
        raise ValueError(f"{path}: too few rows: expected two at least, got {len(table)}")
    columns = [target] if features == "S" else [name for name in table.columns if name != "date"]
    numbers = {name: _numbers(path, table[name]) for name in columns}
    if features == "M":
        _refuse_indices(path, names, numbers, target)
    return Series(path, columns, np.stack(list(numbers.values()), axis=1), _dates(path, table))


def _read(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The table, and its header as written: pandas invents names for empty and repeated ones."""
    if not path.is_file():
        raise ValueError(f"forecasting: no file {path}")
    try:
        header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
        table = pd.read_csv(path, low_memory=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a readable CSV file: {str(error).strip()}") from error
    names = header.iloc[0].tolist()
    if not table.index.equals(pd.RangeIndex(len(table))):  # pandas made one of the surplus
        raise ValueError(f"{path}: rows with more fields than the {len(names)} of the header")
    for name in names:
        if name and names.count(name) > 1:
            raise ValueError(f"{path}: {names.count(name)} columns are called {name!r}")
    return table, names


def _refuse_indices(
    path: Path, names: list[str], numbers: dict[str, np.ndarray], target: str
) -> None:
    """Refuse what a saved table has beside its measurements: it would be forecast too."""
    advice = "an index is no channel: leave it out (in pandas, index=False)"
    for number, name in enumerate(names, start=1):
        if re.fullmatch(r"(Unnamed: \d+)?", name):
            raise ValueError(f"{path}: column {number} has no name; {advice}")
    for name, column in numbers.items():
        if name != target and column[0] in (0, 1) and (np.diff(column) == 1).all():
            raise ValueError(f"{path}: column {name!r} counts the rows; {advice}")


def _numbers(path: Path, column: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    _refuse_first(path, column, ~np.isfinite(numbers), "a number")
    largest = np.finfo(np.float32).max
    _refuse_first(path, column, np.abs(numbers) > largest, "a number that float32 can hold")
    return numbers


def _dates(path: Path, table: pd.DataFrame) -> pd.DatetimeIndex:
    column = table["date"]
    text = column.astype(str)  # of numbers pandas would make nanoseconds
    try:
        parsed = [pd.to_datetime(text, format=f, errors="coerce") for f in DATE_FORMATS]
    except ValueError as error:  # of times of different zones
        raise ValueError(f"{path}: column 'date': {error}") from error
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


def resolve_split(path: Path, split: str) -> str:
    """What "auto" is for a file: "ett" for ETTh1, ETTh2, ETTm1 and ETTm2 in any case of letters."""
    if split != "auto":
        return split
    return "ett" if re.fullmatch(r"ett[hm]\d", stem(path), flags=re.IGNORECASE) else "ratio"


def split(series: Series, kind: str, input_len: int, horizon: int) -> Sequence[tuple[int, int]]:
    """First row and end of the training, validation and test rows.

    Validation and test begin `input_len` rows earlier, so that they forecast every row of their
    own.

    Args:
        series: The table.
        kind: "ett" for 12, 4 and 4 months of 30 days (what is behind them is left out), "ratio"
            for 70, 10 and 20 percent.
        input_len: Past rows per window.
        horizon: Future rows per window.

    Raises:
        ValueError: If there are too few rows for one window in each part.
    """
    num_rows = len(series.values)
    if kind == "ett":
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
            f"{num_rows}, split at {ends} ({kind})"
        )
    return spans


def standardise(series: Series, num_train: int) -> Tensor:
    """The values in deviations from the mean of the first `num_train` rows, (rows, channels).

    A column that is constant there is centred alone.

    Raises:
        ValueError: If a value stands so far out that float32 cannot hold its square.
    """
    train = series.values[:num_train]
    # The deviation of a constant that is not exact in binary is not 0 but the rounding of its mean.
    rounding = 8 * np.finfo(np.float64).eps * np.abs(train).max(axis=0)
    is_constant = np.ptp(train, axis=0) <= rounding
    mean = np.where(is_constant, train[0], train.mean(axis=0))
    scaled = (series.values - mean) / np.where(is_constant, 1.0, train.std(axis=0))
    far = np.abs(scaled) > np.sqrt(np.finfo(np.float32).max)
    if far.any():
        row, column = np.argwhere(far)[0]
        raise ValueError(
            f"{series.path}: row {row + 1}, column {series.columns[column]!r}: expected a number "
            f"near those of the {num_train} training rows, got "
            f"{float(series.values[row, column])!r}, {scaled[row, column]:.1e} deviations off"
        )
    return torch.from_numpy(scaled).float()


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


def time_features(series: Series, calendar: str = "auto") -> Tensor:
    """What the calendar says of each row: (rows, F), each feature in [-0.5, 0.5].

    Weekday, day of the month and day of the year; the hour below steps of a day; the minute
    below steps of an hour.

    Args:
        series: The table.
        calendar: "auto" for these, "hourly" for those of hourly rows whatever the steps are.

    Raises:
        ValueError: If the steps are not whole minutes, hours or days, or longer than a day.
    """
    step, dates = _step(series), series.dates
    if step % pd.Timedelta(minutes=1) or step > pd.Timedelta(days=1):
        raise ValueError(
            f"{series.path}: unknown frequency: expected rows that are whole minutes, hours or a "
            f"day apart, got {step}"
        )
    told = pd.Timedelta(hours=1) if calendar == "hourly" else step
    features = [dates.day_of_week / 6, (dates.day - 1) / 30, (dates.day_of_year - 1) / 365]
    if told < pd.Timedelta(days=1):
        features.insert(0, dates.hour / 23)
    if told < pd.Timedelta(hours=1):
        features.insert(0, dates.minute / 59)
    return torch.from_numpy(np.stack(features, axis=1) - 0.5).float()
