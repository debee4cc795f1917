"""Of several settings of training, as learning rates of a sweep, the best for each mechanism."""

import pandas as pd

from runners.report.table import ROW, TASK, is_own

WIDTH = "embed_dim="


def without_width(setting: str) -> str:
    """The words of the settings without that of the model's width."""
    return ", ".join(part for part in setting.split(", ") if not part.startswith(WIDTH))


def best_of_settings(rows: pd.DataFrame) -> pd.DataFrame:
    """The settings of each mechanism, task and width that did best in validation.

    The best by the mean over the seeds of each run's best validation score, of the metric that
    selected the checkpoint or else the first that has a direction. Nothing is chosen by a test.

    Args:
        rows: The tidy table.

    Returns:
        The columns pattern, `TASK`, `ROW`, embed_dim and num_settings, of how many it is the best.
        Where a setting has no validation score, none is chosen and all are there.
    """
    line = ["pattern", *TASK, *ROW]
    trained = rows[rows["command"].eq("train") & is_own(rows)]
    lines = trained[[*line, "embed_dim"]].drop_duplicates(line)
    cell = [name for name in [*line, "embed_dim"] if name != "setting"]
    grouped = lines.groupby(cell, dropna=False)["setting"]
    lines = lines.assign(num_settings=grouped.transform("size"))
    scores = lines.merge(_validated(trained), on=line, how="left")
    scores = scores.sort_values("score", ascending=False, kind="stable", na_position="first")
    is_told = scores.groupby(cell, dropna=False)["score"].transform("count")
    is_known = is_told.eq(scores["num_settings"])
    chosen = scores[~is_known | ~scores.duplicated(cell)]
    num_settings = chosen["num_settings"].where(is_known.loc[chosen.index], 1)
    return chosen.assign(num_settings=num_settings)[[*line, "embed_dim", "num_settings"]]


def _validated(trained: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds of the best validation score of each line, turned so that more is better.

    Without a line of which a run diverged.
    """
    line = ["pattern", *TASK, *ROW]
    is_score = trained["split"].eq("validation") & trained["direction"].ne("")
    is_score &= trained["metric"].eq(trained["monitor"]) | trained["monitor"].eq("")
    found = trained[is_score & trained["value"].notna()]
    found = found[found["metric"].eq(found.groupby(line)["metric"].transform("first"))]
    sign = found["direction"].map({"lower": -1.0, "higher": 1.0}).astype(float)
    found = found.assign(score=sign * found["value"])
    runs = found.groupby([*line, "run_id"])["score"].max().reset_index()
    broken = trained.loc[trained["status"].eq("diverged"), line].drop_duplicates()
    scores = runs.groupby(line)["score"].mean().reset_index()
    scores = scores.merge(broken.assign(is_broken=True), on=line, how="left")
    return scores[scores["is_broken"].isna()].drop(columns="is_broken")
