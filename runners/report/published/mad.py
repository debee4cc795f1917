"""MAD's six tasks beside what was published of them.

Source: Poli et al., "Mechanistic Design and Scaling of Hybrid Architectures", arXiv:2403.17844; the
numbers are those of others' tables (see results/published/README.md).
"""

import re

import pandas as pd

from runners.report.leaderboard import with_ratios
from runners.report.published import beside
from runners.report.render import Table
from runners.report.table import BASELINE

PREFIX = "MAD "
METRIC = "macro_accuracy"
"""Its accuracies are means over the classes that occur."""
ATTENTIONS = {
    "Transformer": BASELINE,
    "Hyena": "hyena",
    "GLA": "gla",
    "DeltaNet": "deltanet",
    "Gated DeltaNet": "gated_deltanet",
    "Mamba-2": "mamba2",
}
"""The papers' name of a mechanism, and ours; of others theirs stands."""


def published() -> pd.DataFrame:
    """The scores as shares, as `beside.table` takes them; a score is a mean over many settings."""
    found = beside.read_csv("synthetics_other.csv")
    found = found[found["task"].str.startswith(PREFIX) & found["value"].notna()]
    return found.assign(
        pattern="causal_self",
        task=found["task"].str.removeprefix(PREFIX).map(_plain),
        backbone="",
        dataset="",
        metric=METRIC,
        direction="higher",
        value=(found["value"].astype(float) / 100).round(6),  # printed with one decimal
        attention=found["model"].map(ATTENTIONS).fillna(found["model"]),
        comment=found["comment"].fillna(""),
    )[[*beside.PLACE, "attention", "direction", "value", "source", "comment"]]


def comparison(scores: pd.DataFrame) -> Table | None:
    """Ours beside theirs, task by task.

    Args:
        scores: From `quality`.
    """
    is_here = scores["task"].str.startswith("mad_") & scores["metric"].eq(METRIC)
    ours = beside.comparable(with_ratios(scores[is_here]))
    if ours.empty:
        return None
    settings = (ours["dataset"] + " " + ours["task_setting"]).str.strip()
    several = settings.groupby(ours["task"]).transform("nunique").gt(1)
    ours = ours.assign(
        task=ours["task"].str.removeprefix("mad_").map(_plain),
        dataset="",
        backbone="",
        name=ours["name"] + (" on " + settings).where(several, ""),
    )
    return beside.table(
        ours,
        published(),
        name="published_mad",
        title="MAD's tasks beside published numbers",
        notes=[
            "Published: the mean over a baseline and one-at-a-time changes of vocabulary, length, "
            "rows and noise, each the best of six trainings by test accuracy. Ours: the settings "
            "that were run. Reruns of others differ from each other by up to 27 points in a cell."
        ],
        one_edition=[*beside.PLACE, "source"],
    )


def _plain(task: str) -> str:
    """`fuzzy recall` of both `fuzzy_in_context_recall` and `fuzzy in-context recall`."""
    words = re.sub(r"[^a-z]+", " ", task.lower()).replace("in context ", "")
    return {"recall": "in-context recall"}.get(words.strip(), words.strip())
