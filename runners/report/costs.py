"""What `attnbench speed` measured, beside the baseline of the same run."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from runners.report.efficiency import (
    Fit,
    Interval,
    bootstrap,
    cab_fit,
    crossing,
    standard_error,
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
NUMBERS = ["value", "iqr", "calls"]
GRIDS = [*NUMBERS, *(f"{name}_baseline" for name in NUMBERS)]
COSTS = [*CURVE, "run_id", "seq_len", "value", "iqr", "calls", "unit", "comment", "is_baseline"]


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns `COSTS`: time and memory of every pass at every length, of every run.

    Args:
        rows: The tidy table.
    """
    measured = rows[rows["command"].eq("speed") & rows["seq_len"].notna()].copy()
    is_cost = measured["value"].gt(0) & measured["value"].lt(1e100)  # logarithms and squares follow
    measured["value"] = measured["value"].where(is_cost)
    passes, whats = "|".join(PASSES), "time|memory|time_iqr|time_calls"
    parts = measured["metric"].str.extract(f"^({passes})_({whats})$")
    measured[["pass", "what"]] = parts
    key = [*BENCH, "pass", "attention", "variant", "run_id", "seq_len", "is_baseline"]
    found = []
    for quantity in QUANTITIES:
        own = measured[measured["what"] == quantity].assign(quantity=quantity)
        for column, what in (("iqr", f"{quantity}_iqr"), ("calls", f"{quantity}_calls")):
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
        interval: Of `length`; None without a spread to draw from.
        fit: CAB's; None where lengths are too few, or for decoding, which it does not describe.
        ratios: Cost over that of the baseline, by length; NaN where one of them is missing.
    """

    key: dict[str, Any]
    lengths: tuple[int, ...]
    length: float
    interval: Interval | None
    fit: Fit | None
    ratios: tuple[float, ...]


def efficiencies(measured: pd.DataFrame) -> list[Efficiency]:
    """One for each mechanism, pass and quantity of `costs`."""
    same = [*BENCH, "pass", "quantity", "run_id", "seq_len"]
    own, beside = measured[~measured["is_baseline"]], measured[measured["is_baseline"]]
    pairs = own.merge(beside[[*same, *NUMBERS]], on=same, suffixes=("", "_baseline"))
    return [
        _efficiency(dict(zip(CURVE, key, strict=True)), of_curve)
        for key, of_curve in pairs.groupby(CURVE, sort=False)
    ]


def _efficiency(key: dict[str, Any], pairs: pd.DataFrame) -> Efficiency:
    lengths, column = np.unique(pairs["seq_len"].to_numpy(int), return_inverse=True)
    runs, row = np.unique(pairs["run_id"].to_numpy(str), return_inverse=True)
    grid = {name: np.full((len(runs), len(lengths)), math.nan) for name in GRIDS}
    for name in GRIDS:
        grid[name][row, column] = pairs[name].to_numpy(float)
    own, beside = _log_median(grid["value"]), _log_median(grid["value_baseline"])
    both = np.isfinite(own) & np.isfinite(beside)
    fit = None
    if key["pass"] != "decode":
        fit = cab_fit(lengths, beside, own, without_smallest=key["quantity"] == "time")
    return Efficiency(
        key=key,
        lengths=tuple(lengths.tolist()),
        length=crossing(lengths[both], beside[both], own[both]) if both.any() else math.nan,
        interval=_interval(lengths, grid),
        fit=fit,
        ratios=tuple((own / beside).tolist()),
    )


def _log_median(values: np.ndarray) -> np.ndarray:
    """The median over runs, in logarithms, as the bootstrap takes it; NaN without a value."""
    has_value = np.isfinite(values).any(axis=0)
    found = np.full(values.shape[1], math.nan)
    found[has_value] = np.exp(np.nanmedian(np.log(values[:, has_value]), axis=0))
    return found


def _interval(lengths: np.ndarray, grid: dict[str, np.ndarray]) -> Interval | None:
    """Over the lengths that every run has; None if nothing tells how much the costs scatter."""
    whole = np.isfinite(grid["value"] + grid["value_baseline"]).all(axis=0)
    own, beside = grid["value"][:, whole], grid["value_baseline"][:, whole]
    errors = [
        np.nan_to_num(
            standard_error(
                grid[f"value{of}"][:, whole],
                grid[f"iqr{of}"][:, whole],
                grid[f"calls{of}"][:, whole],
            )
        )
        for of in ("", "_baseline")
    ]
    if not whole.any() or (len(own) == 1 and not any(error.any() for error in errors)):
        return None
    return bootstrap(lengths[whole], beside, own, errors[1], errors[0])
