"""Long Range Arena's table: ours among the published ones, with both averages that circulate."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from runners.report.grid import NOT_RUN
from runners.report.leaderboard import same_words
from runners.report.published import beside
from runners.report.render import Table
from runners.report.statistics import estimate, notes_of
from runners.report.table import BASELINE, MARKS, ROW, RULE, row_name

DATASETS = {
    "ListOps": ("listops", "ListOps"),
    "Text": ("text_classification", "IMDb"),
    "Retrieval": ("retrieval", "AAN"),
    "Image": ("image_classification", "CIFAR-10-grey"),
    "Pathfinder": ("pathfinder", "Pathfinder-32-hard"),
    "Path-X": ("pathfinder", "Path-X"),
}
"""LRA's tasks in its order: our name of each, and of its data set, but for a mark."""
PATH_X = "Path-X"
FAILED = 50.0
"""What a failed Path-X counts in the average over six."""
FIVE, SIX = "average of five, without Path-X", "average of six, a failed Path-X as 50"
ATTENTIONS = {
    "Transformer": BASELINE,
    "Local Attention": "block_local",
    "Sparse Transformer": "sparse_transformer_fixed",
    "Longformer": "longformer",
    "Linformer": "linformer",
    "Reformer": "reformer",
    "Sinkhorn Transformer": "sinkhorn",
    "Synthesizer": "synthesizer_random",
    "BigBird": "bigbird",
    "Linear Transformer": "linear_elu",
    "Linear Attention": "linear_elu",
    "Performer": "performer",
    "Nystromformer": "nystrom",
    "Informer": "probsparse",
    "S4D-Lin": "s4d",
}
"""The papers' name of a mechanism, and ours; of others theirs stands."""
ORIGINAL = "LRA paper Table 1"
"""Always shown; of other sources, the mechanisms that ours has too."""
OTHER_MEASURES = r"TRAIN|VALIDATION|pretrain|sequential CIFAR|sCIFAR|comparison point"
"""In the note or name of what is no test accuracy of training from scratch on the task."""


def published() -> pd.DataFrame:
    """The accuracies in percent by model and source: its columns are those of `DATASETS`.

    A published failure (at chance, or out of memory) is -inf, what is not reported NaN.
    """
    found = beside.read_csv("lra_accuracy.csv").fillna({"note": ""})
    is_other = found["note"].str.contains(OTHER_MEASURES) | found["model"].str.contains(
        OTHER_MEASURES
    )
    found = found[found["task"].isin(DATASETS) & ~is_other]
    failed = found["note"].str.startswith("fail") | found["note"].str.contains("is a failure")
    value = found["accuracy"].astype(float).mask(failed, -math.inf)
    found = found.assign(value=value).dropna(subset="value")
    keys = ["source", "model"]
    wide = found.pivot_table(index=keys, columns="task", values="value", sort=False)
    wide = wide.reindex(columns=list(DATASETS)).reset_index()
    attention = wide["model"].map(ATTENTIONS).fillna(wide["model"])
    return wide.assign(attention=attention)[["attention", *keys, *DATASETS]]


def comparison(scores: pd.DataFrame) -> Table | None:
    """Ours and theirs, a line per model and a column per task.

    Args:
        scores: From `quality`.

    Returns:
        None if no task was run on the data set of LRA, or a marked part of it.
    """
    ours = _ours(scores)
    if ours.empty:
        return None
    theirs = published()
    is_shown = theirs["source"].eq(ORIGINAL) | theirs["attention"].isin(ours["attention"])
    lines: list[tuple[str, bool, list[str]]] = []
    data: list[dict[str, Any]] = []
    grouped: list[tuple[Any, pd.DataFrame]] = list(ours.groupby([*ROW, "task_setting"], sort=False))
    for (attention, variant, setting, of_data), own in grouped:
        name = row_name(attention, variant, ", ".join(filter(None, (setting, of_data))))
        cells: dict[Any, Any] = {score.lra: score for score in own.itertuples()}
        told, numbers = _own_line(cells)
        lines.append((attention, False, [name, "ours", *told]))
        data.append({"attention": name, "source": "ours"} | numbers)
    for each, shown in zip(theirs.to_dict("records"), is_shown, strict=True):
        own = {name: each[name] for name in DATASETS}
        numbers = own | averages(own)
        data.append({key: each[key] for key in ("attention", "source", "model")} | numbers)
        if shown:
            source = f"{each['model']}, {each['source']}"
            told = [each["attention"], source, *map(_percent, numbers.values())]
            lines.append((each["attention"], True, told))
    here = list(dict.fromkeys(attention for attention, is_theirs, _ in lines if not is_theirs))
    rank = {name: (name.startswith(RULE), i) for i, name in enumerate(here)}
    lines.sort(key=lambda line: (line[0] not in rank, rank.get(line[0], (False, 0)), line[1]))
    table = [line for _, _, line in lines]
    marks = [mark for mark in MARKS if any(mark in cell for line in table for cell in line[2:])]
    return Table(
        name="published_lra",
        title="Long Range Arena beside published numbers, accuracy in percent",
        header=["attention", "source", *DATASETS, FIVE, SIX],
        lines=table,
        num_words=2,
        data=pd.DataFrame(data).replace(-math.inf, math.nan),
        notes=[
            "Averages are computed from the rows. fail: at chance or out of memory. Models and "
            "training differ among the sources: the plain Transformer spreads from 54.4 to 59.3.",
            f"{NOT_RUN}: not run, not reported, or without one of the tasks.",
            *notes_of(" ".join(cell for line in table for cell in line[2:])),
            *(f"{mark}: {MARKS[mark]}, no result of LRA's." for mark in marks),
        ],
    )


def _ours(scores: pd.DataFrame) -> pd.DataFrame:
    """Our accuracies on LRA's data sets; the column `lra` says which."""
    is_accuracy = scores["metric"].isin(["accuracy", ""])  # without one where every run failed
    kept = beside.comparable(scores[is_accuracy & scores["suite"].eq("lra")])
    kept = kept[kept["pattern"].eq("noncausal_self")]
    found = []
    plain = [
        dataset.removesuffix(mark)
        for dataset, mark in zip(kept["dataset"], kept["mark"], strict=True)
    ]
    for name, (task, dataset) in DATASETS.items():
        is_here = kept["task"].eq(task) & (pd.Series(plain, index=kept.index) == dataset)
        found.append(kept[is_here].assign(lra=name))
    return pd.concat(found)


def _own_line(cells: Mapping[str, Any]) -> tuple[list[str], dict[str, float]]:
    """A line of ours as text, and its numbers."""
    values = {}
    for task in DATASETS:
        score = cells.get(task)
        is_failed = score is not None and not score.n and task == PATH_X
        values[task] = -math.inf if is_failed else 100 * score.mean if score else math.nan
    means = averages(values)
    mark = "".join(dict.fromkeys(score.mark for score in cells.values()))
    told = [_own_cell(cells.get(task)) for task in DATASETS]
    told += [
        _percent(mean) + ("" if math.isnan(mean) else f" {mark}".rstrip())
        for mean in means.values()
    ]
    return told, values | means


def _own_cell(score: Any) -> str:
    if score is None:
        return NOT_RUN
    if not score.n:
        return score.status
    if score.same_as:
        return same_words(score.same_as)
    found = estimate([100 * value for value in score.values], (0.0, 100.0))
    return f"{found} {score.mark}".strip()


def averages(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Both averages of a row; NaN where a task is missing.

    Args:
        accuracies: In percent, by the names of `DATASETS`; -inf is a failure.
    """
    five = [accuracies[name] for name in DATASETS if name != PATH_X]
    last = accuracies[PATH_X]
    without = sum(five) / 5 if all(math.isfinite(value) for value in five) else math.nan
    return {FIVE: without, SIX: (5 * without + (FAILED if last == -math.inf else last)) / 6}


def _percent(value: float) -> str:
    return "fail" if value == -math.inf else NOT_RUN if math.isnan(value) else f"{value:.2f}"
