"""`attnbench report`: tables, indices and figures of result folders, and a page that joins them.

Needs no torch: it reads records and draws, in seconds.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape

from runners.records import Record, printable
from runners.report import (
    benefit,
    correlation,
    cost_tables,
    costs,
    extrapolation,
    index_tables,
    training_cost,
    verification,
)
from runners.report.collection import Collection, collect
from runners.report.figures.benefit import benefit_figures
from runners.report.figures.canvas import Canvas, Plot
from runners.report.figures.correlation import correlation_figures
from runners.report.figures.lengths import length_figures
from runners.report.figures.patterns import pattern_figures
from runners.report.figures.state import state_figures
from runners.report.figures.width import width_figures
from runners.report.leaderboard import leaderboards
from runners.report.plots import Plotter
from runners.report.published import cab, lra, mad, mqar
from runners.report.render import Table, bullets, markdown, write_csv
from runners.report.scores import quality
from runners.report.table import COLUMNS, tidy, without_repeats

OUT = "out="
TABLES, FIGURES, WARNINGS = "tables", "figures", "warnings.txt"
BENEFIT, CORRELATION = "Benefit of attention", "Correlation of patterns and tasks"
NUM_WARNINGS, WARNING_LENGTH = 8, 400
"""What of the warnings stands at the top of the page, in lines and in characters of each."""
IN_FILES_ONLY = ("cost_ratio", "training_cost", "index_population", correlation.TASK_TABLE)
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
    rows, repeats = without_repeats(tidy(collection.records))
    warnings = [*verification.divergences(rows), *repeats, *_mixtures(collection.records)]
    warnings += collection.problems
    for folder in (out / TABLES, out / FIGURES):
        folder.mkdir(parents=True, exist_ok=True)
    write_csv(rows[list(COLUMNS)], out / TABLES / "measurements.csv")
    (out / WARNINGS).write_text("".join(f"{line}\n" for line in warnings), "utf-8")
    scores, measured = quality(rows), costs.costs(rows)
    sections = _tables(rows, scores, measured)
    for table in (table for tables in sections.values() for table in tables):
        table.write(out / TABLES)
    figures = _figures(out / FIGURES, rows, scores, measured)
    page = out / "report.md"
    page.write_text(_page(collection, warnings, sections, figures), "utf-8")
    shown = [] if command == "speed" else sections["Leaderboards"]
    shown = shown or cost_tables.at_the_end(costs.efficiencies(measured))
    _show(shown, _shortened(warnings), page)
    return page


def _tables(
    rows: pd.DataFrame, scores: pd.DataFrame, measured: pd.DataFrame
) -> dict[str, list[Table]]:
    """The tables by the section of the page."""
    found = {
        "Leaderboards": [*leaderboards(scores), *extrapolation.tables(rows)],
        "Recall": [],
        "Compositional Index": [
            *index_tables.own_tables(scores),
            *index_tables.cab_tables(rows, scores),
        ],
        BENEFIT: [benefit.table(benefit.benefits(rows, scores))],
        CORRELATION: correlation.tables(scores),
        "Ours beside published numbers": [
            cab.comparison(rows, scores),
            lra.comparison(scores),
            mqar.comparison(rows, scores),
            mad.comparison(scores),
        ],
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
    canvas = Canvas(folder, plotter.styles)
    return {
        "Leaderboards": [
            *plotter.quality(scores),
            *plotter.lengths(rows),
            *plotter.learning(rows),
        ],
        "Recall": [
            *pattern_figures(canvas, rows, scores),
            *width_figures(canvas, rows, scores),
            *state_figures(canvas, rows, scores),
            *length_figures(canvas, rows, scores),
        ],
        BENEFIT: benefit_figures(canvas, benefit.benefits(rows, scores)),
        CORRELATION: correlation_figures(canvas, scores),
        "Cost": plotter.costs(costs.curves(measured)),
    }


def _page(
    collection: Collection,
    warnings: list[str],
    sections: dict[str, list[Table]],
    figures: dict[str, list[Plot]],
) -> str:
    parts = ["# attnbench report", bullets([_summary(collection), *_shortened(warnings)])]
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
        files = ", ".join(f"[{kind}]({TABLES}/{table.stem}.{kind})" for kind in ("csv", "tex"))
        if table in on_page:
            parts.append(
                f"### {markdown(table.title)}\n\n{table.markdown(without=common)}\n{files}"
            )
        else:
            parts.append(f"{markdown(table.title)}: [table]({TABLES}/{table.stem}.md), {files}")
    return parts


def _figure(plot: Plot) -> str:
    file = f"{FIGURES}/{plot.name}"
    return f"![{plot.name}]({file}.png)\n\n{markdown(plot.caption)} [svg]({file}.svg)"


def _summary(collection: Collection) -> str:
    """What was read."""
    statuses = Counter(str(record.status) for record in collection.records)
    told = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    folders = ", ".join(str(folder) for folder in collection.folders)
    return printable(f"{len(collection.records)} runs ({told}) of {folders}")


def _shortened(warnings: Sequence[str]) -> list[str]:
    """The first of the warnings, and where the others are."""
    kept = [textwrap.shorten(line, WARNING_LENGTH, placeholder=" …") for line in warnings]
    rest = len(warnings) - NUM_WARNINGS
    return [*kept[:NUM_WARNINGS], *([f"{rest} more, in {WARNINGS}"] if rest > 0 else [])]


def _mixtures(records: Sequence[Record]) -> list[str]:
    """A line where the records are of several versions of the package."""
    commits = Counter(str(record.environment.get("git_commit"))[:10] for record in records)
    warnings = []
    if len(commits) > 1:
        told = ", ".join(f"{commit} ({count} runs)" for commit, count in commits.most_common(5))
        told += ", …" if len(commits) > 5 else ""
        warnings.append(f"records of {len(commits)} commits are mixed here: {told}")
    if any(record.environment.get("git_dirty") for record in records):
        warnings.append("some runs were of a working tree with changes that were not committed")
    return list(map(printable, warnings))


def _environment(records: Iterable[Record]) -> list[str]:
    """Each fact about the machines, with every value that it had."""
    values: dict[str, Counter[str]] = {}
    for record in records:
        for key, value in record.environment.items():
            if value is not None:
                values.setdefault(printable(key), Counter())[printable(str(value))] += 1
    return [
        f"{key}: "
        + "; ".join(f"{value} ({n} runs)" if len(of) > 1 else value for value, n in of.items())
        for key, of in values.items()
    ]


def _show(tables: list[Table], warnings: list[str], page: Path) -> None:
    console = Console()
    for table in tables:
        table.show(console)
    for note in dict.fromkeys(note for table in tables for note in table.notes):
        console.print(escape(note), style="dim", highlight=False)
    for warning in warnings:
        console.print(f"[yellow]warning[/] {escape(warning)}", highlight=False, soft_wrap=True)
    console.print(escape(f"report: {printable(str(page))}"), highlight=False, soft_wrap=True)
