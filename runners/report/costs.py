"""What `attnbench speed` measured, beside the baseline of the same run."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from runners.report.efficiency import (
    Fit,
    Interval,
    cab_fit,
    crossing,
    interval,
    median_limits,
)

PASSES = {
    "forward": "forward",
    "forward_backward": "forward + backward",
    "prefill": "prefill",
    "decode": "decode one token",
}
QUANTITIES = {"time": "running time", "memory": "memory usage"}
"""Our name of a cost, and CAB's."""
BENCH = ["pattern", "device", "dtype", "setting"]
"""What two cost curves must share to be compared."""
CURVE = [*BENCH, "pass", "quantity", "attention", "variant"]
BESIDE = ["value", "samples"]
"""What is taken of the baseline's rows."""
COSTS = [*CURVE, *("run_id", "seq_len", "value", "iqr", "ratio", "samples", "unit", "comment"),
         "is_baseline"]  # fmt: skip


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns `COSTS`: time and memory of every pass at every length, of every run.

    `ratio` is the recorded one to the baseline, turn by turn; NaN for what has no turns, memory.

    Args:
        rows: The tidy table.
    """
    measured = rows[rows["command"].eq("speed") & rows["seq_len"].notna()].copy()
    is_cost = measured["value"].gt(0) & measured["value"].lt(1e100)  # logarithms and squares follow
    measured["value"] = measured["value"].where(is_cost)
    passes, whats = "|".join(PASSES), "time|memory|time_iqr|time_ratio"
    parts = measured["metric"].str.extract(f"^({passes})_({whats})$")
    measured[["pass", "what"]] = parts
    key = [*BENCH, "pass", "attention", "variant", "run_id", "seq_len", "is_baseline"]
    found = []
    for quantity in QUANTITIES:
        own = measured[measured["what"] == quantity].assign(quantity=quantity)
        for column, what in (("iqr", f"{quantity}_iqr"), ("ratio", f"{quantity}_ratio")):
            beside = measured.loc[measured["what"] == what, [*key, "value"]]
            own = own.merge(beside.rename(columns={"value": column}), on=key, how="left")
        found.append(own)
    return pd.concat(found)[COSTS]


def curves(measured: pd.DataFrame) -> pd.DataFrame:
    """One value per curve and length: the median over runs.

    Args:
        measured: From `costs`.

    Returns:
        The columns `CURVE`, seq_len, value, iqr (medians), unit and comment.
    """
    # A mechanism that is also the baseline of other runs has the rows of all of them.
    grouped = measured.groupby([*CURVE, "seq_len"], sort=False)
    found = grouped[["value", "iqr"]].median()
    found[["unit", "comment"]] = grouped[["unit", "comment"]].first()
    return found.reset_index()


@dataclass(frozen=True)
class Efficiency:
    """From which length on one mechanism costs less than the baseline of its runs.

    Attributes:
        key: The values of `CURVE`.
        lengths: Measured, in tokens.
        length: By interpolation.
        interval: Of `length`; None without a spread to tell it from.
        fit: CAB's; None where lengths are too few, or for decoding, which it does not describe.
        ratios: Cost over that of the baseline, by length; NaN where one of them is missing.
        low: The lower ends of the 95 % intervals of the ratios; NaN where nothing tells a spread.
        high: The upper ends.
    """

    key: dict[str, Any]
    lengths: tuple[int, ...]
    length: float
    interval: Interval | None
    fit: Fit | None
    ratios: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def efficiencies(measured: pd.DataFrame) -> list[Efficiency]:
    """One for each mechanism, pass and quantity of `costs`."""
    same = [*BENCH, "pass", "quantity", "run_id", "seq_len"]
    own, beside = measured[~measured["is_baseline"]], measured[measured["is_baseline"]]
    pairs = own.merge(beside[[*same, *BESIDE]], on=same, suffixes=("", "_baseline"))
    by_values = pairs["value"] / pairs["value_baseline"]
    pairs = pairs.assign(by_values=by_values, ratio=pairs["ratio"].fillna(by_values))
    return [
        _efficiency(dict(zip(CURVE, key, strict=True)), of_curve)
        for key, of_curve in pairs.groupby(CURVE, sort=False)
    ]


def _efficiency(key: dict[str, Any], pairs: pd.DataFrame) -> Efficiency:
    by_length = [(int(str(length)), of) for length, of in pairs.groupby("seq_len", sort=True)]
    lengths = np.array([length for length, _ in by_length])
    ratios, low, high = np.array([_ratio(of) for _, of in by_length]).T
    both = np.isfinite(ratios)
    told = both & np.isfinite(low)
    return Efficiency(
        key=key,
        lengths=tuple(lengths.tolist()),
        length=crossing(lengths[both], ratios[both]) if both.any() else math.nan,
        interval=interval(lengths[both], *(of[both] for of in (ratios, low, high)))
        if both.any() and (told == both).all()
        else None,
        fit=None if key["pass"] == "decode" else _fit(lengths, by_length, key["quantity"]),
        ratios=tuple(ratios.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
    )


def _ratio(pairs: pd.DataFrame) -> tuple[float, float, float]:
    """The ratio at one length, the median over runs in logarithms, and its 95 % interval.

    Over several runs it is told from how they differ, of a single one from how its turns do.
    """
    logs = np.log(pairs["ratio"].dropna().to_numpy(float))
    if not logs.size:
        return math.nan, math.nan, math.nan
    own, beside = pairs[[*BESIDE[1:], "samples_baseline"]].iloc[0]
    draws = logs
    if logs.size == 1 and len(own) == len(beside) > 0:
        draws = np.log(np.divide(own, beside))
    low, high = median_limits(draws)
    return _exp(np.median(logs)), _exp(low), _exp(high)


def _fit(
    lengths: np.ndarray, by_length: list[tuple[int, pd.DataFrame]], quantity: str
) -> Fit | None:
    """CAB's fit of the median curves; the mechanism's is the baseline's times their ratio.

    A median of each curve by itself could set one run's baseline against another's mechanism.
    """
    beside = np.array([_log_median(of["value_baseline"]) for _, of in by_length])
    ratios = np.array([_log_median(of["by_values"]) for _, of in by_length])
    alone = np.array([_log_median(of["value"]) for _, of in by_length])
    own = np.where(np.isfinite(ratios), beside * ratios, alone)
    return cab_fit(lengths, beside, own, without_smallest=quantity == "time")


def _log_median(values: pd.Series) -> float:
    """The median over runs, in logarithms; NaN without a value."""
    logs = np.log(values.dropna().to_numpy(float))
    return _exp(np.median(logs)) if logs.size else math.nan


def _exp(log: Any) -> float:
    return float(np.exp(log))
