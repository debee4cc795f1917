"""Each slip of CAB is marked where its value appears, and nowhere else."""

from typing import Any

import pytest

from runners.records import Measurement
from runners.report import cost_tables, render
from runners.report.extrapolation import tables as extrapolations
from runners.report.index_tables import cab_tables
from runners.report.published import slips
from runners.report.published.cab import comparison, read
from runners.report.render import Table
from runners.report.scores import quality
from tests.runners.report.made import rows, train

LM: dict[str, Any] = {
    "task": "language_modeling",
    "dataset": "PG-19",
    "backbone": "GPT-2",
    "suite": "cab",
}
SUM: dict[str, Any] = {
    "task": "summarization",
    "dataset": "Multi-News",
    "backbone": "Transformer",
    "suite": "cab",
}
MLM: dict[str, Any] = LM | {"task": "masked_language_modeling", "backbone": "RoBERTa-base"}


def compared(*records) -> Table:
    made = rows(list(records))
    table = comparison(made, quality(made))
    assert table is not None
    return table


def published(table: Table) -> dict[tuple[str, str], str]:
    return {(line[3], line[2].split()[0]): line[5] for line in table.lines}


def test_abcs_perplexity_is_marked_and_explained_in_every_format() -> None:
    table = compared(train("softmax", {"perplexity": 20.0}, **LM))
    assert published(table)["abc", "PPL"] == "29.13ᵃ"
    assert published(table)["local_window", "PPL"] == "19.73"
    assert [note[0] for note in table.notes if note[1:2] == ":" and note[0] in slips.SLIPS] == [
        "ᵃ",
        "ᶠ",
    ]
    assert "31.53" in next(note for note in table.notes if note.startswith("ᵃ"))
    comments = table.data.set_index("attention")["comment"]
    assert "31.53" in comments["abc"]
    assert comments["local_window"] == ""
    assert "29.13$^{a}$" in table.latex()
    assert "29.13ᵃ" in table.markdown()


@pytest.mark.parametrize(
    ("record", "marked"),
    [
        (train("abc", {"rouge1": 30.0}, pattern="noncausal_self", **SUM),
         {("local_window", "ROUGE-1"): "ᵍ", ("abc", "ROUGE-1"): ""}),
        (train("abc", {"perplexity": 9.0}, pattern="noncausal_self", **MLM),
         {("softmax", "PPL"): "ʰ", ("flash_attention", "PPL"): "ᶠʰ"}),
        (train("abc", {"mae": 0.3}, pattern="noncausal_cross", task="forecasting", suite="cab",
               dataset="ETTh1", backbone="Informer",
               data={"features": "S", "input_len": 168, "horizon": 720}),
         {("softmax", "MAE"): "ᵉ", ("abc", "MAE"): ""}),
    ],
    ids=["outlier", "validation", "transposed"],
)  # fmt: skip
def test_a_slip_marks_its_own_value(record, marked: dict) -> None:
    found = published(compared(record))
    for key, letters in marked.items():
        assert found[key].lstrip("0123456789.") == letters, key


def test_the_validation_perplexity_stands_beside_cabs_where_it_was_measured() -> None:
    both = {"perplexity": 9.0, "validation_perplexity": 7.0}
    directions = dict.fromkeys(both, "lower")
    table = compared(train("softmax", both, pattern="noncausal_self", directions=directions, **MLM))
    ours = {line[3]: line[4] for line in table.lines}
    assert ours["softmax"] == "7.000†"


def test_the_labels_of_ecl_and_weather_are_marked_on_the_means_alone() -> None:
    found = slips.marks(slips.SCORE, {"task": "LSTF", "data": "ECL", "pattern": "noncausal_cross"})
    assert found == "ᵈ"
    assert slips.marks(slips.SCORE, {"task": "LSTF", "data": "ECL univariate"}) == ""


def test_the_index_tables_mark_the_published_lines_and_not_ours() -> None:
    made = rows(train(a, {"perplexity": p}, **LM) for a, p in (("softmax", 20.0), ("abc", 30.0)))
    (table,) = cab_tables(made, quality(made))
    lines = {line[0]: dict(zip(table.header, line, strict=True)) for line in table.lines}
    assert lines["abc (published by CAB)"]["LM"] == "-0.828ᵃ"
    assert lines["abc (published by CAB)"]["average ↑"] == "-0.526ᵃ"
    assert lines["s4d (published by CAB)"]["TTS"].endswith("ᵇ")
    assert lines["abc"]["LM"] == "-0.933"
    comments = table.data.set_index("name")["comment"]
    assert "31.53" in comments["abc (published by CAB)"]
    assert comments["abc"] == ""


def test_the_efficiency_lengths_below_the_measured_are_marked() -> None:
    told = cost_tables._published_lengths()
    assert told["abc", "memory"] == "70ˡ"
    assert told["abc", "time"] == "1,877ᵐ"
    assert told["s4d", "memory"] == "949"
    lengths = read("efficiency_length").set_index(["attention", "quantity"])["efficiency_length"]
    assert sum("ˡ" in text for text in told.values()) == (lengths < 256).sum() == 5


def test_the_published_curve_stands_below_ours_with_its_gaps() -> None:
    lengths = [{"seq_len": n, "value": 20.0 + n / 1e4} for n in (4096, 8192)]
    curve = [Measurement("perplexity", direction="lower", split="test", **at) for at in lengths]
    record = train("abc", {}, extra=curve, data={"seq_len": 4096}, **LM)
    (table,) = extrapolations(rows(record))
    lines = {(line[0], line[1]): dict(zip(table.header, line, strict=True)) for line in table.lines}
    assert lines["abc", "ours"]["4,096 (trained)"] == "20.41†"
    assert lines["abc", "ours"]["256"] == "–"
    assert lines["abc", "CAB"]["8,192"] == "31.6ᵃ"
    assert lines["abc", "CAB"]["4,096 (trained)"] == "31.7"
    assert (lines["abc", "CAB"]["16,384"], lines["s4d", "CAB"]["16,384"]) == ("> 100", "–")
    stand_in: dict[str, Any] = {**LM, "dataset": "books-synthetic"}
    made = train("abc", {}, extra=curve, **stand_in)
    (table,) = extrapolations(rows(made))
    assert {line[1] for line in table.lines} == {"ours"}


def test_every_letter_is_one_that_latex_can_set() -> None:
    assert all(letter in render.LATEX for letter in slips.SLIPS)
