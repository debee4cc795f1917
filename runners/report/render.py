"""A table for people in Markdown, LaTeX and on the terminal, and its numbers as CSV."""

import hashlib
import re
import textwrap
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

LONGEST_NAME = 120
"""Of a file, in bytes: file systems refuse more than 255."""
LATEX = {
    "\\": r"\textbackslash{}",
    **{char: "\\" + char for char in "&%$#_{}"},
    **{char: "{" + char + "}" for char in "[]*"},  # after a `\\\\` they would be its arguments
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
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
    "…": r"\dots{}",
    "·": r"$\cdot$",
    **{
        mark: f"$^{{{letter}}}$"
        for mark, letter in zip("ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐ", "abcdefghijklm", strict=True)
    },
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
        num_apart: How many of the lines, from the end, are of another kind than those above.
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
    num_apart: int = 0

    @property
    def stem(self) -> str:
        """The name of its files, without their kind."""
        return file_name(self.name)

    def write(self, folder: Path) -> None:
        """Write the CSV, Markdown and LaTeX of the table into a folder."""
        write_csv(self.data, folder / f"{self.stem}.csv")
        title = f"# {markdown(self.title)}\n\n"
        (folder / f"{self.stem}.md").write_text(title + self.markdown(), "utf-8")
        (folder / f"{self.stem}.tex").write_text(self.latex(), "utf-8")

    def markdown(self, *, without: Container[str] = ()) -> str:
        """The table and its notes, without the title and without the notes in `without`."""
        header = [markdown(name.replace("|", " ")) for name in self.header]
        rows = [
            [self._emphasised(i, j, markdown(cell)) for j, cell in enumerate(line)]
            for i, line in enumerate(self.lines)
        ]
        align = [":---" if j < self.num_words else "---:" for j in range(len(header))]
        body = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, align, *rows))
        notes = bullets(note for note in self.notes if note not in without)
        return f"{body}\n\n{notes}\n" if notes else f"{body}\n"

    def _emphasised(self, i: int, j: int, cell: str) -> str:
        stars = "**" if (i, j) in self.best else "*" if self._is_apart(i) and cell else ""
        return f"{stars}{cell}{stars}"

    def _is_apart(self, i: int) -> bool:
        return i >= len(self.lines) - self.num_apart

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
        if self.num_apart:
            rows.insert(len(rows) - self.num_apart, r"\midrule")
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
                if not any(line[j] for j in columns[1:]):  # a rule of other tasks
                    continue
                cells = [(escape(line[j]), (i, j) in self.best) for j in columns]
                style = "dim" if self._is_apart(i) else None
                table.add_row(
                    *(f"[bold green]{c}[/]" if best else c for c, best in cells), style=style
                )
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
    return "\n".join(f"- {markdown(note)}" for note in notes)


def markdown(text: str) -> str:
    """A text that Markdown shows as it is: no link, no image, no formula, no end of a cell."""
    return re.sub(r"([\\|*_<>`\[\]$~]|:(?=//)|&(?=[#\w]))", r"\\\1", text).replace("\n", " ")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table of numbers; no text in it is a formula to a spreadsheet."""
    words = {
        name: frame[name].map(_no_formula)
        for name in frame.columns
        if not pd.api.types.is_numeric_dtype(frame[name])
    }
    frame.assign(**words).to_csv(path, index=False)


def _no_formula(value: object) -> object:
    """Put an apostrophe before a text that a spreadsheet would take for a formula."""
    is_formula = isinstance(value, str) and re.match(r"[=+@]|-(?![\d.])", value)
    return f"'{value}" if is_formula else value


def _latex(text: str) -> str:
    return "".join(LATEX.get(char, char) for char in text.replace("\n", " "))


def file_name(*parts: str) -> str:
    """The parts that are not empty, joined, with nothing that a file system could refuse.

    Where something else than a space or a comma had to go, or the name is long, a hash of the whole
    keeps two names apart.
    """
    text = "_".join(part for part in parts if part)
    plain = "".join(char if char.isalnum() or char in "-_=.+" else "-" for char in text)
    if len(plain.encode()) <= LONGEST_NAME and plain == text.replace(" ", "-").replace(",", "-"):
        return plain
    kept = plain.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
