"""Windows of a time series, read from a CSV file or generated.

Departs from CAB: the last, shorter batch of validation and test rows is kept. There it is dropped,
so that the scores leave out up to 31 windows, which they are depending on the batch size.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.cab.forecasting.generate import generate
from tasks.cab.forecasting.series import (
    CALENDARS,
    SPLITS,
    Series,
    read_csv,
    resolve_split,
    split,
    standardise,
    stem,
    time_features,
)
from tasks.data import TEST_SEED, VALIDATION_SEED, TaskData, check_counts
from tasks.rules.series import errors

AT_ONCE = 256
"""Windows that the rules are scored on together."""


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
        source: A CSV file (or .csv.gz) with a column `date`; or "generated", see
            `tasks.cab.forecasting.generate`.
        series: What the file must be called, without .csv or .csv.gz and in any case of letters;
            None for any name.
        features: "S" for the target column alone (univariate), "M" for every column.
        target: The target column; None for the one of the data set, else OT.
        input_len: Past rows per window.
        label_len: How many of them start the decoder.
        horizon: Future rows per window.
        split: Of the rows: "ett", "ratio", or "auto" for what goes with the file's name; see
            `tasks.cab.forecasting.series.split`.
        time_features: "auto" for those of the rows' frequency, "hourly" for those of hours; see
            `tasks.cab.forecasting.series.time_features`.
        num_windows: Generated windows, for training; an eighth as many for each evaluation.
    """

    train: Windows
    validation: Windows
    test: Windows

    def __init__(
        self,
        *,
        source: str,
        series: str | None = None,
        features: str = "S",
        target: str | None = None,
        input_len: int,
        label_len: int,
        horizon: int,
        split: str = "auto",
        time_features: str = "auto",
        num_windows: int = 4096,
        batch_size: int,
        eval_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed)
        if series is not None and stem(Path(source)).lower() != series.lower():
            raise ValueError(
                f"forecasting: these settings are those of {series}: source must be {series}.csv "
                f"or {series}.csv.gz, got {source!r} (task.data.series=null takes any file)"
            )
        if features not in ("S", "M"):
            raise ValueError(
                f"features must be S (target alone) or M (all columns), got {features!r}"
            )
        check_counts(input_len=input_len, horizon=horizon, num_windows=num_windows)
        if not 0 <= label_len <= input_len:
            raise ValueError(
                f"label_len must be between 0 and input_len {input_len}, got {label_len}"
            )
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if time_features not in CALENDARS:
            raise ValueError(
                f"time_features must be one of {', '.join(CALENDARS)}, got {time_features!r}"
            )
        if num_windows < 8:
            raise ValueError(
                "num_windows must be at least 8, of which an eighth is added for each evaluation, "
                f"got {num_windows}"
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
        self.split = resolve_split(Path(source), split)
        self.time_features = time_features
        self.num_windows = num_windows

    @property
    def dataset(self) -> str:
        """The stem of the file, as ETTh1, or what is generated."""
        return "series-synthetic" if self.source == "generated" else stem(Path(self.source))

    @property
    def labels(self) -> dict[str, str]:
        """How the rows were split, where there is a file of them."""
        return {} if self.source == "generated" else {"data_split": self.split}

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

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """What a constant reaches: the mean, the last value."""
        batches = (self.test[rows] for rows in torch.arange(len(self.test)).split(AT_ONCE))
        return errors((batch.past, batch.future) for batch in batches)

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
                (evaluation, VALIDATION_SEED),
                (evaluation, TEST_SEED),
            ]
        )

    def _split(self, series: Series) -> None:
        spans = split(series, self.split, self.input_len, self.horizon)
        values = standardise(series, spans[0][1])
        times = time_features(series, self.time_features)
        last = self.input_len + self.horizon - 1
        self.train, self.validation, self.test = (
            Windows(values, times, torch.arange(begin, end - last), self.input_len, self.horizon)
            for begin, end in spans
        )

    def _generate(self, num_windows: int, seed: int) -> Windows:
        windows = generate(num_windows, self.input_len, self.horizon, seed)
        values = windows.flatten(0, 1)
        times = torch.zeros(len(values), 1)  # they have no calendar
        starts = torch.arange(num_windows) * windows.shape[1]
        return Windows(values, times, starts, self.input_len, self.horizon)
