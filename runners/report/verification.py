"""What `attnbench verify` found, a cell per mechanism and pattern, and how the runs ended."""

import numpy as np
import pandas as pd

from runners.report.grid import NOT_RUN
from runners.report.leaderboard import has_no_place
from runners.report.render import Table
from runners.report.table import PATTERNS, ROW, is_own, known_patterns, row_names

NUM_NAMED = 3
"""How many of the runs that share a fate are named at the top of the page."""
REFUSAL = "refusal"
"""The check of a pattern that is not claimed."""


def verification(rows: pd.DataFrame) -> Table | None:
    """The verdict on every claim; None if nothing was verified.

    Args:
        rows: The tidy table, in which a check is the metric `verify/<pattern>/<check>`.
    """
    checks = rows[rows["command"].eq("verify")].copy()
    checks[["of", "check"]] = checks["metric"].str.extract("^verify/([^/]+)/(.+)$")
    checks = checks.dropna(subset="check")
    if checks.empty:
        return None
    checks["name"] = row_names(checks)
    checks["verdict"] = checks["comment"].str.extract("^(failed|warning):", expand=False).fillna("")
    cells = {
        key: _cell(of) for key, of in checks.groupby(["name", "of"], sort=False) if len(of) > 0
    }
    names = sorted(checks["name"].unique())
    patterns = known_patterns(checks.assign(pattern=checks["of"]))
    return Table(
        name="verification",
        title="Claims that attnbench verify examined",
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


def divergences(rows: pd.DataFrame) -> list[str]:
    """A line for the runs that diverged, and one for those that ended well with no finite score."""
    rows = rows[is_own(rows)]
    is_score = rows["split"].eq("test") & rows["step"].isna()
    is_broken = rows["status"].eq("ok") & is_score & (rows["is_nan"] | np.isinf(rows["value"]))
    return [
        *_named("diverged", rows[rows["status"].eq("diverged")]),
        *_named("ended with a score that is not finite", rows[is_broken]),
    ]


def _named(fate: str, rows: pd.DataFrame) -> list[str]:
    """`3 runs diverged: abc mqar causal_self seed 0 (loss not finite at step 12); …`."""
    runs = rows.drop_duplicates("run_id")
    seeds = "seed " + runs["seed"]
    errors = ("(" + runs["error"] + ")").where(runs["error"].ne(""), "")
    parts = zip(row_names(runs), runs["task"], runs["pattern"], seeds, errors, strict=True)
    names = [" ".join(filter(None, each)) for each in parts]
    rest = ["…"] if len(names) > NUM_NAMED else []
    return [f"{len(names)} runs {fate}: {'; '.join(names[:NUM_NAMED] + rest)}"] if names else []


def endings(rows: pd.DataFrame) -> Table | None:
    """Every run that did not end well, those of one reason together; None if there is none."""
    bad = rows[rows["status"].ne("ok") & is_own(rows)].drop_duplicates("run_id").copy()
    if bad.empty:
        return None
    bad["name"] = pd.Series(row_names(bad), bad.index).mask(has_no_place(bad), "every mechanism")
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
