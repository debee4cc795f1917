"""Repeated runs to one number with its uncertainty."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from runners.report.table import ROW, TASK

CONFIDENCE = 0.95
ONE_SEED = "†"
"""Marks a number that rests on one run and so has no interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean over independent runs.

    Attributes:
        mean: NaN where no run gave a value.
        half_width: Half of the 95 % interval; NaN below two values.
        n: The number of values.
    """

    mean: float
    half_width: float
    n: int

    def __str__(self) -> str:
        if self.n == 0:
            return ""
        if self.n == 1:
            return f"{significant(self.mean)}{ONE_SEED}"
        if not math.isfinite(self.half_width) or self.half_width == 0:
            return f"{significant(self.mean)} ± {self.half_width:g}"
        decimals = max(1 - math.floor(math.log10(self.half_width)), 0)
        if decimals > 6:
            return f"{self.mean:.3e} ± {self.half_width:.1e}"
        return f"{self.mean:.{decimals}f} ± {self.half_width:.{decimals}f}"


def estimate(values: Iterable[float]) -> Estimate:
    """The mean of independent values and its 95 % interval by Student's t.

    The interval is mean ± t s / sqrt n, with s the sample standard deviation (n - 1) and t the
    quantile of n - 1 degrees of freedom. Missing values (NaN) are left out, and show in `n`.
    """
    kept = [value for value in values if not math.isnan(value)]
    n = len(kept)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    mean = math.fsum(kept) / n
    if n == 1 or not math.isfinite(mean):
        return Estimate(mean, math.nan, n)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in kept) / (n - 1))
    return Estimate(mean, t_quantile(n - 1) * deviation / math.sqrt(n), n)


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t within which a Student variable lies with this probability, on both sides of 0.

    Source: the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4, solved by bisection. It
    stands here because the one library that has it, SciPy, is no dependency otherwise.
    """
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(degrees)), which is bounded
    while high - low > 1e-15:
        middle = (low + high) / 2
        low, high = (middle, high) if _probability(middle, degrees) < confidence else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _probability(angle: float, degrees: int) -> float:
    """P(|t| < sqrt(degrees) tan(angle))."""
    sin, cos = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2 == 1
    term = cos if is_odd else 1.0
    total = 0.0
    for i in range(1 if is_odd else 0, degrees - 1, 2):
        total += term
        term *= cos**2 * (i + 1) / (i + 2)
    return 2 / math.pi * (angle + sin * total) if is_odd else sin * total


def significant(value: float, digits: int = 4) -> str:
    """A number with this many significant digits, and every digit before the point."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}" if decimals < 10 else f"{value:.{digits - 1}e}"


def quality(rows: pd.DataFrame) -> pd.DataFrame:
    """Every test metric of every trained task, as `estimates` has it.

    Args:
        rows: The tidy table.
    """
    is_score = rows["split"].eq("test") & rows["direction"].isin(["lower", "higher"])
    return estimates(rows, is_score & rows["seq_len"].isna() & rows["step"].isna())


def estimates(rows: pd.DataFrame, is_wanted: pd.Series) -> pd.DataFrame:
    """Measurements of training runs, estimated over the seeds.

    Args:
        rows: The tidy table.
        is_wanted: Bool, for each of its rows.

    Returns:
        One row per pattern, task, metric and line of the tables, also where no run ended well.
        Beside those columns: direction, unit, is_monitored (selected the checkpoint), mean,
        half_width, n; values (one per run); status (`ok`, or what ended the runs, if none was ok);
        failures (`1 of 3 oom`, empty if none).
    """
    is_trained = rows["command"].eq("train") & ~rows["is_baseline"]
    trained, scores = rows[is_trained], rows[is_trained & is_wanted]
    # A cell without a score is still a cell: its runs tell why.
    runs = trained.drop_duplicates("run_id")
    metrics = scores[[*TASK, "metric", "direction", "unit"]].drop_duplicates([*TASK, "metric"])
    runs = runs[["pattern", *TASK, *ROW, "run_id", "status", "monitor"]]
    cells = runs.merge(metrics, on=TASK, how="left")
    cells = cells.merge(scores[["run_id", "metric", "value"]], on=["run_id", "metric"], how="left")
    cells[["metric", "direction", "unit"]] = cells[["metric", "direction", "unit"]].fillna("")
    keys = ["pattern", *TASK, "metric", "direction", "unit", *ROW]
    summaries = [
        dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True)) | _summary(cell)
        for key, cell in cells.groupby(keys, sort=False)
    ]
    found = pd.DataFrame(summaries, columns=[*keys, *SUMMARY])
    return found.sort_values(TASK, kind="stable", ignore_index=True)


SUMMARY = ("is_monitored", "mean", "half_width", "n", "values", "status", "failures")


def _summary(cell: pd.DataFrame) -> dict[str, Any]:
    is_ok = cell["status"].eq("ok")
    values = cell.loc[is_ok, "value"]
    found = estimate(values)
    failures = [
        f"{count} of {len(cell)} {status}"
        for status, count in cell.loc[~is_ok, "status"].value_counts().items()
    ]
    without = int(values.isna().sum())
    if without and found.n:
        failures.append(f"{without} of {len(cell)} without a value")
    status = "ok" if found.n else "no value" if is_ok.any() else "/".join(cell["status"].unique())
    return {
        "is_monitored": bool(cell["metric"].eq(cell["monitor"]).all()),
        "mean": found.mean,
        "half_width": found.half_width,
        "n": found.n,
        "values": tuple(values.dropna()),
        "status": status,
        "failures": ", ".join(failures) if found.n else "",
    }
