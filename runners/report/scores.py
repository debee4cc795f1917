"""Every score of the tidy table, estimated over the seeds of its cell."""

from typing import Any

import numpy as np
import pandas as pd

from runners.report.rules import SUMMARY, rule_scores
from runners.report.statistics import bounds_of, estimate
from runners.report.table import ROW, TASK, is_own
from runners.report.twins import twins

NOT_FINITE = "not finite"
"""The status of a run that ended well with a score that is no number, or infinite."""
BROKEN = ("diverged", NOT_FINITE)
"""What the mean of the other runs must not hide."""
TRAINING_COSTS = (
    *("step_time", "step_time_ratio", "loop_step_time"),
    *("peak_memory", "parameters", "parameter_overhead", "state_elements"),
)


def quality(rows: pd.DataFrame) -> pd.DataFrame:
    """Every test metric of every trained task, as `estimates` has it, and `same_as` of `twins`.

    Those of the trivial rules come last; `rule` is empty in all others.

    Args:
        rows: The tidy table.
    """
    is_score = rows["split"].eq("test") & rows["direction"].isin(["lower", "higher"])
    found = estimates(rows, is_score & rows["seq_len"].isna() & rows["step"].isna())
    found = found.merge(twins(rows), on=["pattern", *TASK, *ROW], how="left")
    found = found.fillna({"same_as": ""}).assign(rule="")
    of_rules = rule_scores(rows)
    return found if of_rules.empty else pd.concat([found, of_rules], ignore_index=True)


def estimates(rows: pd.DataFrame, is_wanted: pd.Series) -> pd.DataFrame:
    """Measurements of training runs, estimated over the seeds.

    Args:
        rows: The tidy table.
        is_wanted: Bool, for each of its rows.

    Returns:
        One row per pattern, task, metric and line of the tables, also where no run ended well.
        Beside those columns: direction, unit, is_monitored (selected the checkpoint), mean,
        half_width, low, high, n; values (one per run); status (`ok`, or what ended the runs, if
        none was ok); failures (`1 of 3 oom`, empty if none). A cell of which a run diverged has
        no mean, whatever the others gave: its status is `diverged (1 of 3)`.
    """
    is_trained = rows["command"].eq("train") & is_own(rows)
    trained, scores = rows[is_trained], rows[is_trained & is_wanted]
    # A cell without a score is still a cell: its runs tell why.
    runs = trained.drop_duplicates("run_id")
    metrics = scores[[*TASK, "metric", "direction", "unit"]].drop_duplicates([*TASK, "metric"])
    runs = runs[["pattern", *TASK, *ROW, "run_id", "seed", "status", "monitor"]]
    cells = runs.merge(metrics, on=TASK, how="left")
    values = scores[["run_id", "metric", "value", "is_nan"]]
    cells = cells.merge(values, on=["run_id", "metric"], how="left")
    cells["is_nan"] = cells["is_nan"].eq(True) | np.isinf(cells["value"])
    cells[["metric", "direction", "unit"]] = cells[["metric", "direction", "unit"]].fillna("")
    keys = ["pattern", *TASK, "metric", "direction", "unit", *ROW]
    summaries = [
        dict(zip(keys, key, strict=True)) | _summary(cell)
        for key, cell in cells.groupby(keys, sort=False)
    ]
    found = pd.DataFrame(summaries, columns=[*keys, *SUMMARY])
    return found.sort_values(TASK, kind="stable", ignore_index=True)


def _summary(cell: pd.DataFrame) -> dict[str, Any]:
    metric = str(cell["metric"].iloc[0])
    # What was measured before a later stage failed counts: only a run that diverged spoils it.
    is_measured = cell["value"].notna() & ~cell["status"].eq("diverged")
    statuses = cell["status"].mask(is_measured, "ok")
    statuses = statuses.mask(statuses.eq("ok") & cell["is_nan"], NOT_FINITE)
    is_ok = statuses.eq("ok")
    counts = statuses[~is_ok].value_counts()
    is_broken = metric not in TRAINING_COSTS and bool(counts.keys().isin(BROKEN).any())
    values = cell.loc[is_ok, "value"].iloc[: 0 if is_broken else None]
    found = estimate(values, bounds_of(metric))
    failures = [f"{count} of {len(cell)} {status}" for status, count in counts.items()]
    without = int(values.isna().sum())
    if without and found.n:
        failures.append(f"{without} of {len(cell)} without a value")
    if found.n:
        status = "ok"
    elif is_broken and len(counts) + is_ok.any() > 1:
        status = ", ".join(f"{told} ({count} of {len(cell)})" for told, count in counts.items())
    else:
        status = "no value" if is_ok.any() else "/".join(statuses.unique())
    return {
        "is_monitored": bool(cell["metric"].eq(cell["monitor"]).all()),
        "mean": found.mean,
        "half_width": found.half_width,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "values": tuple(values.dropna()),
        "status": status,
        "failures": ", ".join(failures) if found.n else "",
    }
