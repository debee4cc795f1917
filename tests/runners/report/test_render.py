import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from runners.report.render import Table, bullets

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
