import io
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from runners.report.render import Table, bullets, file_name, write_csv

TABLE = Table(
    name="small",
    title="A & B",
    header=["attention", "lm|ppl ↓", "lm|top_1 (%) ↑"],
    lines=[["local_window", "3.0 ± 0.1", "50"], ["a|b", "failed", "–"]],
    data=pd.DataFrame({"attention": ["local_window"], "ppl": [3.0]}),
    best=frozenset({(0, 1)}),
    notes=["100 % of_all"],
)


def test_markdown() -> None:
    assert TABLE.markdown() == (
        "| attention | lm ppl ↓ | lm top\\_1 (%) ↑ |\n"
        "| :--- | ---: | ---: |\n"
        "| local\\_window | **3.0 ± 0.1** | 50 |\n"
        "| a\\|b | failed | – |\n"
        "\n- 100 % of\\_all\n"
    )
    assert "of" not in TABLE.markdown(without=["100 % of_all"])
    assert bullets(["one", "two"]) == "- one\n- two"


def test_latex_leaves_nothing_unescaped() -> None:
    text = TABLE.latex()
    assert r"\caption{A \& B}" in text
    assert r"\begin{tabular}{lrr}" in text
    assert r"local\_window & \textbf{3.0 $\pm$ 0.1} & 50 \\" in text
    assert r"lm top\_1 (\%) $\uparrow$" in text
    assert r"\par 100 \% of\_all" in text
    assert text.isascii()


def test_files(tmp_path: Path) -> None:
    TABLE.write(tmp_path)
    assert (tmp_path / "small.csv").read_text() == "attention,ppl\nlocal_window,3.0\n"
    assert (tmp_path / "small.md").read_text().startswith("# A & B\n\n| attention |")
    assert (tmp_path / "small.tex").read_text() == TABLE.latex()


@pytest.mark.parametrize("width", [30, 80])
def test_a_wide_table_is_parted_and_loses_nothing(width: int) -> None:
    output = io.StringIO()
    TABLE.show(Console(file=output, width=width))
    text = output.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for part in ("A & B", "local_window", "3.0 ± 0.1", "top_1 (%) ↑", "50", "failed"):
        assert part in text
    assert text.count("local_window") == (2 if width == 30 else 1)


@pytest.mark.parametrize(
    "text", ["[x](http://h)", "![x](u)", "<img src=x>", "`x`", "$x$", "~~x~~", "a|b", "&lt;"]
)
def test_no_text_is_markup(text: str) -> None:
    found = bullets([text]).removeprefix("- ")
    assert not re.search(r"(?<!\\)([\[\]<>`$~|*_]|:(?=//)|&l)", found)
    assert re.sub(r"\\(.)", r"\1", found) == text


def test_a_text_that_a_spreadsheet_would_compute_is_kept_from_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": ["=1+1", "@x", "+x", "-x", "-0.5", "a=b"], "value": [-1.0] * 6})
    write_csv(frame, tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["'=1+1", "'@x", "'+x", "'-x", "-0.5", "a=b"]
    assert {line.split(",")[1] for line in lines} == {"-1.0"}


def test_a_row_cannot_begin_with_an_argument_of_the_line_break() -> None:
    table = replace(TABLE, lines=[["[1cm]", "*", "…"]], best=frozenset())
    assert "\n{[}1cm{]} & {*} & \\dots{} \\\\\n" in table.latex()


def test_a_file_name_has_nothing_that_a_file_system_refuses() -> None:
    assert file_name("quality", "", "a b, c", "w=8") == "quality_a-b--c_w=8"
    odd = [file_name("a/b"), file_name("a\\b"), file_name("a\x00b"), file_name("n" * 3000)]
    assert len(set(odd)) == len(odd)
    assert all(re.fullmatch(r"[\w=.+-]{1,140}", name) for name in odd)
    assert file_name("n" * 3000) != file_name("n" * 3001)
