"""What `attnbench verify` found, a cell per mechanism and pattern, and how the runs ended."""

import pandas as pd

from runners.report.leaderboard import NOT_RUN
from runners.report.published import row_names
from runners.report.render import Table
from runners.report.table import PATTERNS, ROW, known_patterns

REFUSAL = "refusal"
"""The check of a pattern that is not claimed."""


def verification(rows: pd.DataFrame) -> Table | None:
    """The verdict on every claim; None if nothing was verified.

    Args:
        rows: The tidy table, in which a check is the metric `verify/<pattern>/<check>`.
    """
    checks = rows[rows["command"].eq("verify") & rows["metric"].str.startswith("verify/")].copy()
    if checks.empty:
        return None
    checks[["of", "check"]] = checks["metric"].str.split("/", n=2, expand=True)[[1, 2]]
    checks["name"] = row_names(checks)
    checks["verdict"] = checks["comment"].str.extract("^(failed|warning):", expand=False).fillna("")
    cells = {
        key: _cell(of) for key, of in checks.groupby(["name", "of"], sort=False) if len(of) > 0
    }
    names = sorted(checks["name"].unique())
    patterns = known_patterns(checks.assign(pattern=checks["of"]))
    return Table(
        name="verification",
        title="Claims that `attnbench verify` examined",
        header=["attention", *(PATTERNS.get(pattern, pattern) for pattern in patterns)],
        lines=[[name, *(cells.get((name, p), NOT_RUN) for p in patterns)] for name in names],
        data=checks[[*ROW, "of", "check", "verdict", "value", "comment"]].rename(
            columns={"of": "pattern", "value": "worst_error"}
        ),
        num_words=len(patterns) + 1,
        notes=[f"holds: in every check; {NOT_RUN}: not examined. The CSV file has each check."],
    )


def _cell(checks: pd.DataFrame) -> str:
    if checks["check"].eq(REFUSAL).all() and not checks["verdict"].any():
        return "not claimed"
    failed = list(checks.loc[checks["verdict"] == "failed", "check"])
    warnings = list(checks.loc[checks["verdict"] == "warning", "check"])
    told = [f"REFUTED: {', '.join(failed)}"] if failed else [f"holds ({len(checks)} checks)"]
    return "; ".join(told + ([f"warning: {', '.join(warnings)}"] if warnings else []))


def endings(rows: pd.DataFrame) -> Table | None:
    """Every run that did not end well, those of one reason together; None if there is none."""
    bad = rows[rows["status"].ne("ok")].drop_duplicates("run_id").copy()
    if bad.empty:
        return None
    bad["name"] = row_names(bad)
    where = ["status", "command", "task", "name", "pattern", "error"]
    grouped = bad.groupby(where, sort=True)["run_id"].agg(list).reset_index()
    lines = [
        [*(part or NOT_RUN for part in place), str(len(run_ids)), " ".join(error.split())[:200]]
        for *place, error, run_ids in grouped.to_numpy()
    ]
    return Table(
        name="endings",
        title="Runs that did not end well",
        header=["status", "command", "task", "attention", "pattern", "runs", "reason"],
        lines=lines,
        data=bad[[*where, "run_id", "seed", "git_commit"]],
        num_words=len(where) + 1,
    )
