"""A table for people in Markdown, LaTeX and on the terminal, and its numbers as CSV."""

import textwrap
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

LATEX = {
    "\\": r"\textbackslash{}",
    **{char: "\\" + char for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "†": r"$^\dagger$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "<": r"$<$",
    ">": r"$>$",
    "Δ": r"$\Delta$",
    "σ": r"$\sigma$",
    "μ": r"$\mu$",
    "–": "--",
    "·": r"$\cdot$",
}


@dataclass(frozen=True)
class Table:
    """What a reader sees, and the numbers behind it.

    Attributes:
        name: The stem of its files.
        title: One line.
        header: The columns; `|` parts the group of a column from its name.
        lines: The cells as text, a row each.
        best: (row, column) of the cells in bold.
        num_words: How many of the columns, from the left, are words and not numbers.
        notes: What the reader must know, one sentence each.
        data: The numbers in tidy form, for the CSV file.
    """

    name: str
    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    data: pd.DataFrame
    best: frozenset[tuple[int, int]] = frozenset()
    notes: Sequence[str] = field(default_factory=tuple)
    num_words: int = 1

    def write(self, folder: Path) -> None:
        """Write `<name>.csv`, `<name>.md` and `<name>.tex` into a folder."""
        self.data.to_csv(folder / f"{self.name}.csv", index=False)
        (folder / f"{self.name}.md").write_text(f"# {self.title}\n\n{self.markdown()}")
        (folder / f"{self.name}.tex").write_text(self.latex())

    def markdown(self, *, without: Container[str] = ()) -> str:
        """The table and its notes, without the title and without the notes in `without`."""
        header = [_markdown(name.replace("|", " ")) for name in self.header]
        rows = [
            [f"**{_markdown(cell)}**" if (i, j) in self.best else _markdown(cell) for j, cell in e]
            for i, e in ((i, list(enumerate(line))) for i, line in enumerate(self.lines))
        ]
        align = [":---" if j < self.num_words else "---:" for j in range(len(header))]
        body = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, align, *rows))
        notes = bullets(note for note in self.notes if note not in without)
        return f"{body}\n\n{notes}\n" if notes else f"{body}\n"

    def latex(self) -> str:
        """A table in the style of booktabs, with the notes under it."""
        columns = "".join("l" if j < self.num_words else "r" for j in range(len(self.header)))
        header = " & ".join(_latex(name.replace("|", " ")) for name in self.header)
        rows = [
            " & ".join(
                rf"\textbf{{{_latex(cell)}}}" if (i, j) in self.best else _latex(cell)
                for j, cell in enumerate(line)
            )
            + r" \\"
            for i, line in enumerate(self.lines)
        ]
        return "\n".join(
            [
                "% needs \\usepackage{booktabs}",
                r"\begin{table}",
                rf"\caption{{{_latex(self.title)}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                header + r" \\",
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                *(rf"\par {_latex(note)}" for note in self.notes),
                r"\end{table}",
                "",
            ]
        )

    def show(self, console: Console) -> None:
        """Print it without its notes; one wider than the terminal is parted between columns."""
        for first, columns in enumerate(self._parts(console.width)):
            title = None if first else escape(self.title)
            table = RichTable(title=title, title_justify="left")
            for j in columns:
                justify = "left" if j < self.num_words else "right"
                table.add_column(escape(self._heading(j)), justify=justify, no_wrap=True)
            for i, line in enumerate(self.lines):
                cells = [(escape(line[j]), (i, j) in self.best) for j in columns]
                table.add_row(*(f"[bold green]{c}[/]" if best else c for c, best in cells))
            console.print(table)

    def _heading(self, j: int) -> str:
        """A heading in several lines where the words of a task are wider than its numbers."""
        group, _, name = self.header[j].rpartition("|")
        width = max(len(text) for text in (name, *group.split(), *(line[j] for line in self.lines)))
        return "\n".join([*textwrap.wrap(group, max(width, 1), break_on_hyphens=False), name])

    def _parts(self, width: int) -> list[list[int]]:
        """The columns in parts that fit the terminal, each with the first column."""
        widths = [
            max(map(len, (*self._heading(j).split("\n"), *(line[j] for line in self.lines)))) + 3
            for j in range(len(self.header))
        ]
        parts = [[0]]
        for j in range(1, len(widths)):
            used = 1 + sum(widths[i] for i in parts[-1])
            if used + widths[j] > width and len(parts[-1]) > 1:
                parts.append([0])
            parts[-1].append(j)
        return parts


def bullets(notes: Iterable[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {_markdown(note)}" for note in notes)


def _markdown(text: str) -> str:
    for char in "\\|*_<":
        text = text.replace(char, "\\" + char)
    return text.replace("\n", " ")


def _latex(text: str) -> str:
    return "".join(LATEX.get(char, char) for char in text.replace("\n", " "))
