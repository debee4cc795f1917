"""Test scores of groups of rows: `accuracy_8_pairs`, `accuracy_length_64_depth_0.5`."""

import pandas as pd

from runners.report.table import ROW, TASK, is_own

PAIRS, LENGTH = r"(?P<pairs>\d+)_pairs", r"length_(?P<length>\d+)(?:_depth_(?P<depth>[\d.]+))?"
GROUP = rf"^(?P<of>\w+?)_(?:{PAIRS}|{LENGTH})$"


def group_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """The test scores of groups, with the numbers in their names as columns.

    Args:
        rows: The tidy table.

    Returns:
        Its rows, with the columns `of` (the metric), pairs, length and depth, NaN where the name
        does not tell one. Without lines of which a run diverged, whose mean would hide it.
    """
    line = ["pattern", *TASK, *ROW]
    is_score = rows["command"].eq("train") & is_own(rows) & rows["split"].eq("test")
    broken = rows.loc[rows["status"].eq("diverged"), line].drop_duplicates()
    found = rows[is_score & rows["status"].eq("ok") & rows["value"].notna()]
    parts = found["metric"].str.extract(GROUP)
    for name in ("pairs", "length", "depth"):
        parts[name] = pd.to_numeric(parts[name], errors="coerce")
    found = found.join(parts).dropna(subset="of")
    found = found.merge(broken.assign(is_broken=True), on=line, how="left")
    return found[found["is_broken"].isna()]
