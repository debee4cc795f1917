"""CAB's Compositional Index: how many standard deviations above the population, over tasks.

Source: Zhang et al., CAB, ICML 2023, arXiv:2210.07661, and the constants in its repository.
Per pattern, z = s (x - mu) / sigma of a metric, with s = -1 where lower is better; the index of a
task is the mean of z over its metrics, data sets and backbones; that of a pattern is the mean over
its tasks. Missing scores are never filled in: without one of its scores a mechanism has no index
for the task, and without one of the tasks none for the pattern.
"""

import numpy as np
import pandas as pd

from runners.report.published.cab import (
    ATTENTIONS,
    METRICS,
    TASKS,
    published_scores,
    read,
)
from runners.report.table import BASELINE, CONTROL, ROW, TASK, row_names

CELL = ["pattern", "task", "backbone", "dataset", "metric"]
"""What has a mean and a deviation of its own."""
SCORES = [*CELL, *ROW, "direction", "value", "same_as"]
"""The columns of the scores that an index is computed from."""
CONSTANTS = [*CELL, "mu", "sigma", "sign", "size", "population"]
PERPLEXITIES = ("perplexity", "PPL")


def own_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The columns `SCORES` of a run's means: CAB's metrics of CAB's tasks.

    Of other tasks, the metric that selected the checkpoint, or every one if none did: metrics of
    one task measure much the same, and would only be counted several times.
    """
    scores = scores[scores["rule"].eq("")]
    is_cab = scores["task"].isin(TASKS) & scores["metric"].isin(METRICS)
    selects = scores.groupby(TASK)["is_monitored"].transform("any")
    counts = is_cab | (~scores["task"].isin(TASKS) & (scores["is_monitored"] | ~selects))
    kept = scores[counts & scores["metric"].ne("")].rename(columns={"mean": "value"})
    named = kept["dataset"] + " " + kept["task_setting"]
    return kept.assign(dataset=named.str.strip())[SCORES]


def cab_scores() -> pd.DataFrame:
    """The columns `SCORES` of the published task scores behind CAB's leaderboard."""
    scores = published_scores()
    is_detail = scores["dataset"].str.contains("variate")
    return scores[~is_detail].assign(variant="", setting="", same_as="")[SCORES]


def in_logarithms(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with the logarithm of each perplexity, which one failure dominates less."""
    is_perplexity = scores["metric"].isin(PERPLEXITIES)
    logarithms = np.log(scores["value"].where(is_perplexity))
    return scores.assign(value=scores["value"].mask(is_perplexity, logarithms))


def constants(scores: pd.DataFrame, is_member: pd.Series) -> pd.DataFrame:
    """Mean and sample standard deviation (n - 1) of each cell over its population.

    Args:
        scores: With the columns `SCORES`.
        is_member: Bool, for each score, whether it is of the population.

    Returns:
        The columns `CONSTANTS`; sigma is NaN in a population of one.
    """
    found = []
    for key, cell in scores[is_member].dropna(subset="value").groupby(CELL, sort=False):
        sign = 1 if cell["direction"].iloc[0] == "higher" else -1
        population = ", ".join(sorted(row_names(cell)))
        value = cell["value"]
        found.append([*key, value.mean(), value.std(), sign, len(cell), population])
    return pd.DataFrame(found, columns=CONSTANTS)


def own_constants(scores: pd.DataFrame) -> pd.DataFrame:
    """The constants of a run's own population: every mechanism once, and not the control."""
    return constants(scores, scores["attention"].ne(CONTROL) & scores["same_as"].eq(""))


def cab_constants() -> pd.DataFrame:
    """The constants of CAB's script, its misprint of the ROUGE-L mean included."""
    printed = read("ci_constants").rename(columns={"population_size": "size"})
    names = [
        ", ".join(sorted(ATTENTIONS[name] for name in population.split()))
        for population in printed["population"]
    ]
    return printed.assign(population=names)[CONSTANTS]


def cab_log_constants() -> pd.DataFrame:
    """CAB never took logarithms: these come from its published scores and its populations."""
    members = {
        tuple(cell): set(population.split(", "))
        for *cell, population in cab_constants()[[*CELL, "population"]].itertuples(index=False)
    }
    scores = in_logarithms(cab_scores())
    cells = scores[[*CELL, "attention"]].itertuples(index=False, name=None)
    is_member = [attention in members[tuple(cell)] for *cell, attention in cells]
    return constants(scores, pd.Series(is_member, index=scores.index))


def task_indices(scores: pd.DataFrame, population: pd.DataFrame) -> pd.DataFrame:
    """The index of each mechanism for each task of the population.

    Args:
        scores: With the columns `SCORES`.
        population: From `constants`.

    Returns:
        The columns pattern, `ROW`, task, index (NaN if incomplete) and missing (what it lacks).
    """
    lines = scores[["pattern", *ROW]].drop_duplicates()
    grid = lines.merge(population, on="pattern")
    grid = grid.merge(scores[[*CELL, *ROW, "value"]], on=[*CELL, *ROW], how="left")
    grid["z"] = grid["sign"] * (grid["value"] - grid["mu"]) / grid["sigma"]
    return _gathered(grid, "z", "index")


def task_ratios(scores: pd.DataFrame, population: pd.DataFrame) -> pd.DataFrame:
    """As `task_indices`, with the geometric mean of the ratios to softmax, above 1 for better."""
    cell = [*CELL, "setting"]
    is_baseline = scores["attention"].eq(BASELINE) & scores["variant"].eq("")
    softmax = scores.loc[is_baseline, [*cell, "value"]].rename(columns={"value": "softmax"})
    joined = scores.merge(softmax, on=cell, how="left")
    ratio = joined["value"] / joined["softmax"]
    ratio = ratio.where(joined["direction"].eq("higher"), 1 / ratio)
    joined["log_ratio"] = np.log(ratio.where(ratio > 0))
    lines = joined[["pattern", *ROW]].drop_duplicates()
    grid = lines.merge(population[CELL], on="pattern")
    grid = grid.merge(joined[[*CELL, *ROW, "log_ratio"]], on=[*CELL, *ROW], how="left")
    return _gathered(grid, "log_ratio", "index")


def _gathered(grid: pd.DataFrame, value: str, name: str) -> pd.DataFrame:
    """The mean of each task's cells, which a single missing one leaves undefined."""
    of_task = ["pattern", *ROW, "task"]
    found = []
    for key, cells in grid.groupby(of_task, sort=False):
        absent = cells[cells[value].isna()]
        whole = len(absent) == len(cells)
        parts = map(" ".join, absent[["backbone", "dataset", "metric"]].to_numpy(str))
        missing = "" if absent.empty else key[-1] if whole else f"{key[-1]} ({', '.join(parts)})"
        mean = cells[value].mean(skipna=False)
        found.append([*key, mean, missing])
    return pd.DataFrame(found, columns=[*of_task, name, "missing"])


def averages(tasks: pd.DataFrame) -> pd.DataFrame:
    """The index of each mechanism for each pattern.

    Args:
        tasks: From `task_indices`.

    Returns:
        The columns pattern, `ROW`, index, delta (to softmax in the same settings) and missing.
    """
    line = ["pattern", *ROW]
    grouped = tasks.groupby(line, sort=False)
    found = grouped["index"].agg(lambda index: index.mean(skipna=False)).reset_index()
    found["missing"] = grouped["missing"].agg(lambda each: ", ".join(filter(None, each))).values
    is_baseline = found["attention"].eq(BASELINE) & found["variant"].eq("")
    softmax = found.loc[is_baseline, ["pattern", "setting", "index"]]
    softmax = softmax.rename(columns={"index": "softmax"})
    found = found.merge(softmax, on=["pattern", "setting"], how="left")
    return found.assign(delta=found["index"] - found["softmax"]).drop(columns="softmax")
