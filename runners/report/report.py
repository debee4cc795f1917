"""`attnbench report`: tables, indices and figures of result folders, and a page that joins them.

Needs no torch: it reads records and draws, in seconds.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape

from runners.records import Record
from runners.report import (
    cost_tables,
    costs,
    index_tables,
    published,
    training_cost,
    verification,
)
from runners.report.leaderboard import leaderboards
from runners.report.plots import Plot, Plotter
from runners.report.render import Table, bullets
from runners.report.statistics import quality
from runners.report.table import COLUMNS, Collection, collect, tidy

OUT = "out="
TABLES, FIGURES = "tables", "figures"
IN_FILES_ONLY = ("cost_ratio", "training_cost", "index_population")
"""Tables too long for the page, which links to them."""


def main(arguments: Sequence[str | Path], out: Path | None = None) -> int:
    """Report on the folders among the arguments; `out=FOLDER` says where to.

    Args:
        arguments: Result folders, and perhaps `out=FOLDER`.
        out: Where the report goes; None for `report` in the first of the folders.

    Raises:
        ValueError: If no folder is given.
        NoRecords: If a folder has no records.
        OSError: If the report cannot be written.
    """
    texts = [str(argument) for argument in arguments]
    folders = [Path(text) for text in texts if not text.startswith(OUT)]
    for text in texts:
        out = Path(text.removeprefix(OUT)) if text.startswith(OUT) else out
    if not folders:
        raise ValueError("report needs a result folder: attnbench report FOLDER ... [out=FOLDER]")
    write_report(folders, folders[0] / "report" if out is None else out)
    return 0


def write_report(folders: Sequence[Path], out: Path, command: str = "") -> Path:
    """Write the report of result folders, print its leaderboards, and return its page.

    Where no task was trained, or `command`, whose sweep has ended, is `speed`, what the mechanisms
    cost is printed instead.

    Raises:
        NoRecords: If a folder has no records.
        OSError: If the report cannot be written.
    """
    collection = collect(folders)
    rows = tidy(collection.records)
    for folder in (out / TABLES, out / FIGURES):
        folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(out / TABLES / "measurements.csv", index=False, columns=list(COLUMNS))
    scores, measured = quality(rows), costs.costs(rows)
    sections = _tables(rows, scores, measured)
    for table in (table for tables in sections.values() for table in tables):
        table.write(out / TABLES)
    figures = _figures(out / FIGURES, rows, scores, measured)
    page = out / "report.md"
    page.write_text(_page(collection, sections, figures))
    shown = [] if command == "speed" else sections["Leaderboards"]
    _show(collection, shown or cost_tables.at_the_end(costs.efficiencies(measured)), page)
    return page


def _tables(
    rows: pd.DataFrame, scores: pd.DataFrame, measured: pd.DataFrame
) -> dict[str, list[Table]]:
    """The tables by the section of the page."""
    found = {
        "Leaderboards": leaderboards(scores),
        "Compositional Index": [
            *index_tables.own_tables(scores),
            *index_tables.cab_tables(rows, scores),
        ],
        "Ours beside published numbers": [published.comparison(rows, scores)],
        "Cost": [
            *cost_tables.tables(costs.efficiencies(measured)),
            *training_cost.tables(rows),
        ],
        "Claims": [verification.verification(rows)],
        "Runs that did not end well": [verification.endings(rows)],
    }
    return {name: [table for table in of if table] for name, of in found.items()}


def _figures(
    folder: Path, rows: pd.DataFrame, scores: pd.DataFrame, measured: pd.DataFrame
) -> dict[str, list[Plot]]:
    """The figures by the section of the page."""
    plotter = Plotter(folder, rows)
    return {
        "Leaderboards": [
            *plotter.quality(scores),
            *plotter.lengths(rows),
            *plotter.learning(rows),
        ],
        "Cost": plotter.costs(costs.curves(measured)),
    }


def _page(
    collection: Collection, sections: dict[str, list[Table]], figures: dict[str, list[Plot]]
) -> str:
    parts = ["# attnbench report", bullets(_summary(collection))]
    for name, tables in sections.items():
        plots = figures.get(name, [])
        if tables or plots:
            parts += [f"## {name}", *_section(tables), *map(_figure, plots)]
    parts += ["## Environment", bullets(_environment(collection.records))]
    parts.append(f"Every number behind this page: [measurements]({TABLES}/measurements.csv).")
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _section(tables: list[Table]) -> list[str]:
    """The tables of a section; the notes that several share stand once, above them."""
    on_page = [table for table in tables if not table.name.startswith(IN_FILES_ONLY)]
    counts = Counter(note for table in on_page for note in table.notes)
    common = [note for note, count in counts.items() if count > 1]
    parts = [bullets(common)] if common else []
    for table in tables:
        files = ", ".join(f"[{kind}]({TABLES}/{table.name}.{kind})" for kind in ("csv", "tex"))
        if table in on_page:
            parts.append(f"### {table.title}\n\n{table.markdown(without=common)}\n{files}")
        else:
            parts.append(f"{table.title}: [table]({TABLES}/{table.name}.md), {files}")
    return parts


def _figure(plot: Plot) -> str:
    file = f"{FIGURES}/{plot.name}"
    return f"![{plot.name}]({file}.png)\n\n{plot.caption} [svg]({file}.svg)"


def _summary(collection: Collection) -> list[str]:
    """What was read, and what the reader must know of it."""
    statuses = Counter(str(record.status) for record in collection.records)
    told = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    folders = ", ".join(f"`{folder}`" for folder in collection.folders)
    return [f"{len(collection.records)} runs ({told}) of {folders}", *_warnings(collection)]


def _warnings(collection: Collection) -> list[str]:
    commits = Counter(
        str(record.environment.get("git_commit"))[:10] for record in collection.records
    )
    warnings = list(collection.problems)
    if len(commits) > 1:
        told = ", ".join(f"{commit} ({count} runs)" for commit, count in commits.most_common())
        warnings.append(f"records of {len(commits)} commits are mixed here: {told}")
    if any(record.environment.get("git_dirty") for record in collection.records):
        warnings.append("some runs were of a working tree with changes that were not committed")
    return warnings


def _environment(records: Iterable[Record]) -> list[str]:
    """Each fact about the machines, with every value that it had."""
    values: dict[str, Counter[str]] = {}
    for record in records:
        for key, value in record.environment.items():
            if value is not None:
                values.setdefault(key, Counter())[str(value)] += 1
    return [
        f"{key}: "
        + "; ".join(f"{value} ({n} runs)" if len(of) > 1 else value for value, n in of.items())
        for key, of in values.items()
    ]


def _show(collection: Collection, tables: list[Table], page: Path) -> None:
    console = Console()
    for table in tables:
        table.show(console)
    for note in dict.fromkeys(note for table in tables for note in table.notes):
        console.print(escape(note), style="dim", highlight=False)
    for warning in _warnings(collection):
        console.print(f"[yellow]warning[/] {escape(warning)}", highlight=False, soft_wrap=True)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
