"""Multi-query associative recall beside what Zoology and Mamba-2 drew over the model's width.

What was published without its number of pairs or its width has no place here and is in the file.
"""

import pandas as pd

from runners.report.leaderboard import with_ratios
from runners.report.published import beside
from runners.report.render import Table
from runners.report.table import BASELINE, ROW, RULE, TASK, row_name
from runners.report.tuning import best_of_settings, without_width

ATTENTIONS = {
    "Attention": BASELINE,
    "Based": "based",
    "BaseConv": "base_conv",
    "DeltaNet": "deltanet",
    "GLA": "gla",
    "Gated DeltaNet": "gated_deltanet",
    "Hyena": "hyena",
    "Mamba-2": "mamba2",
    "Mamba-2 (N=16)": "mamba2 (state_dim=16)",
    "Mamba-2 (N=64)": "mamba2 (state_dim=64)",
    "Mamba-2 (N=256)": "mamba2 (state_dim=256)",
}
"""The papers' name of a mechanism, and ours; of others theirs stands."""
SETTINGS = {"MQAR": "", "MQAR, hard setting (random filler, L/4 pairs)": "-filler"}
"""How the papers' tasks end in our names of data sets."""


def published() -> pd.DataFrame:
    """The points with a width, a length and a number of pairs, as `beside.table` takes them."""
    points = beside.read_csv("mqar.csv").dropna(subset=["d_model", "seq_len", "num_kv_pairs"])
    sizes = points[["seq_len", "num_kv_pairs"]].astype(int).astype(str)
    dataset = "MQAR-L" + sizes["seq_len"] + "-N" + sizes["num_kv_pairs"]
    points = points.assign(
        pattern="causal_self",
        backbone="",
        dataset=dataset + points["task"].map(SETTINGS),
        embed_dim=points["d_model"].astype(int),
        task="mqar",
        metric="accuracy",
        direction="higher",
        value=points["accuracy"],
        attention=points["model"].map(ATTENTIONS).fillna(points["model"]),
        comment=points["comment"].fillna(""),
    )
    return points[
        [*beside.PLACE, "embed_dim", "attention", "direction", "value", "source", "comment"]
    ]


def comparison(rows: pd.DataFrame, scores: pd.DataFrame) -> Table | None:
    """Ours beside theirs at the same length, pairs and width; of several settings ours is the best.

    Args:
        rows: The tidy table.
        scores: From `quality`.
    """
    ours = with_ratios(scores[scores["task"].eq("mqar") & scores["metric"].eq("accuracy")])
    ours = beside.comparable(ours)
    if ours.empty:
        return None
    best = best_of_settings(rows)
    mechanisms = ours[ours["rule"].eq("")].merge(best, on=["pattern", *TASK, *ROW])
    widths = best[["pattern", *TASK, "embed_dim"]].drop_duplicates()
    rules = ours[ours["rule"].ne("")].merge(widths, on=["pattern", *TASK])
    ours = pd.concat([mechanisms, rules]).dropna(subset="embed_dim")
    ours = ours.assign(
        backbone="",
        name=[
            row_name(attention, variant, without_width(setting))
            for attention, variant, setting in ours[ROW].itertuples(index=False, name=None)
        ],
    )
    is_variant = ours["attention"].eq("mamba2") & ours["variant"].str.startswith("state_dim=")
    ours["attention"] = ours["attention"].mask(is_variant, ours["name"])
    return beside.table(
        _by_width(ours),
        _by_width(published()),
        name="published_mqar",
        title="Multi-query associative recall beside published numbers",
        notes=[
            "Matched by length, pairs, filler and width. Published: digitised from figures, the "
            "best of several learning rates by test accuracy, one run each. Ours: of several "
            "settings the best by validation, the mean over seeds.",
            f"{RULE}…: a rule that understands nothing; it has no width.",
        ],
    )


def _by_width(scores: pd.DataFrame) -> pd.DataFrame:
    width = scores["embed_dim"].astype(int).astype(str)
    return scores.assign(dataset=scores["dataset"] + " width " + width)
