"""The Compositional Index as tables: in a run's own population, and with CAB's constants."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from runners.report.grid import NOT_RUN
from runners.report.index import (
    CELL,
    PERPLEXITIES,
    SCORES,
    averages,
    cab_constants,
    cab_log_constants,
    cab_scores,
    in_logarithms,
    own_constants,
    own_scores,
    task_indices,
    task_ratios,
)
from runners.report.published import slips
from runners.report.published.cab import in_cab_names
from runners.report.render import Table
from runners.report.table import BASELINE, PATTERNS, ROW, known_patterns, row_names

PUBLISHED = "published by CAB"
"""The setting of CAB's own lines."""
SMALL_POPULATION = 5
"""Below this a deviation is too uncertain to let it pass without a word."""


def own_tables(scores: pd.DataFrame) -> list[Table]:
    """One table per pattern in the run's own population, and one of that population.

    Args:
        scores: From `quality`.
    """
    own = own_scores(scores[scores["n"] > 0])
    if own.empty:
        return []
    population = own_constants(own)
    logarithmic = own_constants(in_logarithms(own))
    tables = [
        _table(
            f"index_{pattern}",
            f"Compositional Index in this run's own population, {PATTERNS.get(pattern, pattern)}",
            *(frame[frame["pattern"] == pattern] for frame in (own, population, logarithmic)),
        )
        for pattern in known_patterns(own)
    ]
    tables = [table for table in tables if table is not None]
    return [*tables, _population_table(population)] if tables else []


def cab_tables(rows: pd.DataFrame, scores: pd.DataFrame) -> list[Table]:
    """One table per pattern with CAB's constants: ours among those that CAB published.

    Only scores on the data that CAB used count; a marked data set's never do.
    """
    ours = in_cab_names(rows, scores)
    ours = ours[ours["mark"].eq("") & (ours["n"] > 0)]
    ours = ours.rename(columns={"mean": "value"})[SCORES]
    if ours.empty:
        return []
    scored = task_indices(ours, cab_constants()).dropna(subset="index")
    lines = scored[["pattern", *ROW]].drop_duplicates()
    both = pd.concat(
        [ours.merge(lines, on=["pattern", *ROW]), cab_scores().assign(setting=PUBLISHED)]
    )
    tables = [
        _table(
            f"index_cab_{pattern}",
            f"Compositional Index with CAB's constants, {PATTERNS.get(pattern, pattern)}",
            *(
                frame[frame["pattern"] == pattern]
                for frame in (both, cab_constants(), cab_log_constants())
            ),
        )
        for pattern in known_patterns(lines)
    ]
    return [table for table in tables if table is not None]


def _table(
    name: str,
    title: str,
    scores: pd.DataFrame,
    population: pd.DataFrame,
    logarithmic: pd.DataFrame,
) -> Table | None:
    """None if no cell has a spread to measure by."""
    has_spread = population["sigma"] > 0
    without, population = population[~has_spread], population[has_spread]
    logarithmic = logarithmic[logarithmic["sigma"] > 0]
    if population.empty:
        return None
    tasks = task_indices(scores, population)
    whole = averages(tasks)
    whole["log"] = averages(task_indices(in_logarithms(scores), logarithmic))["index"]
    whole["ratio"] = np.exp(averages(task_ratios(scores, population))["index"])
    whole["name"] = row_names(whole)
    wide = tasks.pivot(index=ROW, columns="task", values="index")
    wide = whole.merge(wide.reset_index(), on=ROW)
    wide["num_missing"] = wide["missing"].str.count(",") + wide["missing"].ne("")
    wide = wide.sort_values(["index", "num_missing", "name"], ascending=[False, True, True])
    names = list(dict.fromkeys(tasks["task"]))
    has_log = bool(population["metric"].isin(PERPLEXITIES).any())
    header = ["attention", *names, "average ↑", f"Δ {BASELINE}"]
    is_whole = not whole["missing"].any()
    header += [*(["average, log PPL"] if has_log else []), f"ratio to {BASELINE}"]
    header += [] if is_whole else ["missing"]
    signed = [*names, "index", "delta", *(["log"] if has_log else [])]
    marked = [_marks(row, names) for row in wide.to_dict("records")]
    wide["comment"] = [slips.words(dict.fromkeys("".join(of.values()))) for of in marked]
    lines = [
        [
            row["name"],
            *(_signed(row[key]) + of.get(key, "") for key in signed),
            NOT_RUN if math.isnan(row["ratio"]) else f"{row['ratio']:.3f}×",
            *([] if is_whole else [row["missing"]]),
        ]
        for (_, row), of in zip(wide.iterrows(), marked, strict=True)
    ]
    column = len(names) + 1
    read = [_signed(value) for value in wide["index"]]
    best = {(i, column) for i, told in enumerate(read) if told == read[0] != NOT_RUN}
    notes = _notes(population, without, has_log=has_log)
    notes += slips.footnotes("".join(of.values()) for of in marked)
    same = scores[scores["same_as"].ne("")]
    for (other, task), of in same.groupby(["same_as", "task"], sort=False):
        told = ", ".join(sorted(set(row_names(of))))
        notes.append(f"{told}: the same as {other} in {task}, counted once in its population.")
    return Table(name, title, header, lines, wide, frozenset(best), notes)


def _marks(row: Mapping[Any, Any], tasks: Sequence[str]) -> dict[str, str]:
    """By the column, the letters of the slips that touch a published line."""
    if row["setting"] != PUBLISHED:
        return {}
    columns = {**{task: task for task in tasks}, "index": slips.AVERAGE}
    return {
        column: slips.marks(slips.INDEX, {**row, "task": task})
        for column, task in columns.items()
        if not math.isnan(row[column])
    }


def _signed(value: float) -> str:
    return NOT_RUN if math.isnan(value) else f"{value:+.3f}"


def _notes(population: pd.DataFrame, without: pd.DataFrame, *, has_log: bool) -> list[str]:
    notes = [
        "z = ±(x - μ)/σ per metric, averaged inside each task, then over the tasks; nothing is "
        "imputed: without a score there is no index.",
        f"ratio: the geometric mean of the ratios to {BASELINE}, above 1 for better.",
    ]
    if has_log:
        notes.append("log PPL: of the logarithm of each perplexity, so that one failure does not "
                     "set the scale.")  # fmt: skip
    for names, cells in population.groupby("population", sort=False):
        of = ", ".join(dict.fromkeys(cells["task"]))
        size = cells["size"].min()
        warning = "; few, so σ is uncertain" if size < SMALL_POPULATION else ""
        notes.append(f"Population for {of}: {names} (n = {size}{warning}).")
    flat = ", ".join(" ".join(cell) for cell in without[["task", "metric"]].to_numpy())
    return [*notes, f"Not scored, as the population has no spread: {flat}."] if flat else notes


def _population_table(population: pd.DataFrame) -> Table:
    lines = [
        [
            " ".join(getattr(cell, key) for key in CELL if getattr(cell, key)),
            *(f"{value:.6g}" for value in (cell.mu, cell.sigma)),
            f"{cell.sign:+d}",
            str(cell.size),
            cell.population,
        ]
        for cell in population.itertuples()
    ]
    return Table(
        name="index_population",
        title="The population behind this run's own Compositional Index",
        header=["score", "μ", "σ", "sign", "n", "mechanisms"],
        lines=lines,
        data=population,
    )
