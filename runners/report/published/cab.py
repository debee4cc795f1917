"""The numbers that CAB published, in its names and in ours, and a table of ours beside them.

Sources: see results/published/README.md.
"""

import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import pandas as pd

from runners.report.leaderboard import with_ratios
from runners.report.published import beside, slips
from runners.report.render import Table
from runners.report.table import (
    BASELINE,
    ROW,
    TASK,
    mark_of,
)

ATTENTIONS = {
    "vanilla": BASELINE,
    "local": "local_window",
    "Nystromformer": "nystrom",
    "Performer": "performer",
    "LARA": "lara",
    "cosFormer": "cosformer",
    "ABC": "abc",
    "ProbSparse": "probsparse",
    "LongShort": "longshort",
    "S4D": "s4d",
    "FlashAttention": "flash_attention",
}
"""CAB's name of a mechanism, and ours. FlashAttention is exact, but was a run of its own."""
TASKS = {
    "text_to_speech": "TTS",
    "summarization": "Sum",
    "forecasting": "LSTF",
    "point_cloud_completion": "PCC",
    "language_modeling": "LM",
    "masked_language_modeling": "MLM",
    "super_resolution": "SR",
}
"""Our name of a task, and CAB's."""
METRICS = {
    "mcd": "MCD",
    "msd": "MSD",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeLsum": "ROUGE-L",  # CAB's ROUGE-L is that of the whole summary
    "mse": "MSE",
    "mae": "MAE",
    "cd_l1": "CD-l1 x1000",
    "cd_l2": "CD-l2 x1000",
    "f_score": "F-Score",
    "perplexity": "PPL",
    "psnr": "PSNR",
    "ssim": "SSIM",
}
"""Our name of a metric, and CAB's."""
VALIDATION_PERPLEXITY = "validation_perplexity"
"""Of masked language modelling, where CAB has no score of the test rows."""
DATASETS = {"WTH": "Weather"}
"""Where the file of a data set is called otherwise than the data set."""
FEATURES = {"S": "univariate", "M": "multivariate"}
LSTF_MEANS = {"ETT": ("ETTh1", "ETTh2", "ETTm1"), "Weather": ("Weather",), "ECL": ("ECL",)}
"""The files behind each data set of CAB's table; each in both of `FEATURES`."""

SCORE = ["pattern", "task", "backbone", "dataset", "attention", "metric"]
"""What identifies a score, in CAB's names but for the attention."""


@cache
def read(name: str) -> pd.DataFrame:
    """The file `cab_<name>.csv`, its patterns and mechanisms in our names."""
    frame = beside.read_csv(f"cab_{name}.csv")
    if "pattern" in frame:
        frame["pattern"] = frame["pattern"].str.replace(" ", "_")
    if "attention" in frame:
        frame["attention"] = frame["attention"].replace(ATTENTIONS)
    return frame


def published_scores() -> pd.DataFrame:
    """Every task score, with the columns `SCORE`, direction, value, source and comment.

    Forecasting is there twice: CAB's averages under ETT, Weather and ECL, and each setting under
    a name like `ETTh1 univariate 168-720`.
    """
    detail = read("lstf_detail")
    detail = detail[detail["setting"].isin(FEATURES.values())].copy()
    lengths = detail[["input_length", "prediction_length"]].astype(int).astype(str)
    lengths = lengths["input_length"] + "-" + lengths["prediction_length"]
    detail["dataset"] = detail["dataset"] + " " + detail["setting"] + " " + lengths
    detail[["task", "backbone"]] = "LSTF", "Informer"
    columns = [*SCORE, "direction", "value", "source", "comment"]
    tasks = read("tasks").assign(comment="")
    return pd.concat([tasks[columns], detail[columns]]).fillna({"comment": ""})


def in_cab_names(rows: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Our scores of CAB's tasks, in its names.

    Args:
        rows: The tidy table, which has the settings of the data.
        scores: From `quality`.

    Returns:
        Those of `scores` that CAB has a name for and that are not of generated data, with the
        columns `SCORE` in its names, `name` of the line, and mark (of the data set). CAB's averages
        over forecasting settings are added where every one of them was run.
    """
    scores = _on_cab_rows(scores)
    is_here = scores["task"].isin(TASKS) & scores["metric"].isin(METRICS)
    ours = beside.comparable(scores[is_here & scores["rule"].eq("")])
    settings = rows[[*TASK, "data_settings"]].drop_duplicates(TASK)
    ours = ours.merge(settings, on=TASK, how="left")
    ours["dataset"] = list(map(_cab_dataset, ours["dataset"], ours["data_settings"]))
    ours["task"] = ours["task"].map(TASKS)
    ours["metric"] = ours["metric"].map(METRICS)
    ours["backbone"] = list(map(_cab_backbone, ours["backbone"], ours["task"]))
    return pd.concat([ours, _forecasting_means(ours)], ignore_index=True)


def _on_cab_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with the perplexity of the validation rows for that of the test rows, if known."""
    is_validation = scores["metric"].eq(VALIDATION_PERPLEXITY)
    tasks = scores.loc[is_validation, "task"].unique()
    is_replaced = scores["task"].isin(tasks) & scores["metric"].eq("perplexity")
    metric = scores["metric"].mask(is_validation, "perplexity")
    return scores.assign(metric=metric)[~is_replaced]


@cache
def _cab_dataset(dataset: str, data_settings: str) -> str:
    """CAB's name of a data set, without the mark of a stand-in."""
    name = dataset.removesuffix(mark_of(dataset))
    name = DATASETS.get(name, name)
    settings = dict(part.split("=", 1) for part in data_settings.split("; ") if "=" in part)
    if {"features", "input_len", "horizon"} <= settings.keys():
        features = FEATURES.get(settings["features"], settings["features"])
        return f"{name} {features} {settings['input_len']}-{settings['horizon']}"
    return _spelt(name, read("tasks")["dataset"].unique())


@cache
def _cab_backbone(backbone: str, task: str) -> str:
    known = read("tasks")
    return _spelt(backbone, known.loc[known["task"] == task, "backbone"].unique())


def _spelt(name: str, known: Iterable[str]) -> str:
    """The known name that differs in case and signs only, or the name itself."""
    return {_plain(other): other for other in known}.get(_plain(name), name)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _forecasting_means(ours: pd.DataFrame) -> pd.DataFrame:
    """CAB's final scores: the mean over files, univariate and multivariate, of the mean of runs."""
    detail = published_scores()
    detail = detail.loc[detail["dataset"].str.contains("variate"), "dataset"].unique()
    means = []
    real = ours[(ours["task"] == "LSTF") & ours["mark"].eq("") & (ours["n"] > 0)]
    for dataset, files in LSTF_MEANS.items():
        wanted = {name for name in detail if name.split()[0] in files}
        parts = real[real["dataset"].isin(wanted)]
        for _, cell in parts.groupby(["pattern", "metric", *ROW]):
            if set(cell["dataset"]) == wanted:
                whole = {"dataset": dataset, "mean": cell["mean"].mean(), "n": cell["n"].min()}
                whole |= dict.fromkeys(("half_width", "low", "high"), math.nan)
                means.append(cell.iloc[0].to_dict() | whole)
    return pd.DataFrame(means, columns=ours.columns).astype(ours.dtypes)


def _marked(scores: pd.DataFrame) -> pd.DataFrame:
    """The published scores with the letters of the slips that touch them."""
    data = scores["dataset"].str.replace(r" \d+-\d+$", "", regex=True)
    told: list[dict[str, Any]] = scores.assign(data=data).to_dict("records")  # type: ignore[assignment]
    return scores.assign(marks=[slips.marks(slips.SCORE, row) for row in told])


def comparison(rows: pd.DataFrame, scores: pd.DataFrame) -> Table | None:
    """Ours beside the published scores of the same task, data set, pattern and metric.

    A mechanism that only one side has is there too. None if CAB published nothing on our tasks.
    """
    return beside.table(
        in_cab_names(rows, with_ratios(scores)),
        _marked(published_scores()),
        name="published",
        title="Ours beside the numbers that CAB published",
        notes=[
            "Matched by task, data set, pattern, mechanism and metric; forecasting also by its "
            "lengths and channels. Sizes and training of ours are in the settings of each run.",
            "CAB's numbers are single runs; in forecasting, means over 3 or 5 repeats.",
        ],
    )
