import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from runners.records import Measurement, Record, Status
from runners.report.index import own_constants, own_scores
from runners.report.leaderboard import leaderboards, with_ratios
from runners.report.plots import Plotter
from runners.report.render import Table
from runners.report.scores import quality
from runners.report.training_cost import tables as training_costs
from runners.report.verification import endings
from tests.runners.report.made import rows, train

FIRST = {"first token": {"accuracy": 0.36}}
BOTH = FIRST | {"majority class": {"accuracy": 0.17}}


def runs(name: str, *values: float, pattern: str = "causal_self", rules=BOTH) -> list[Record]:
    return [
        train(name, {"accuracy": value}, seed=seed, pattern=pattern, rules=rules)
        for seed, value in enumerate(values)
    ]


def only(*records: Record) -> Table:
    (table,) = leaderboards(quality(rows(list(records))))
    return table


def lines(table: Table) -> dict[str, list[str]]:
    return {line[0]: list(line[1:]) for line in table.lines}


def test_a_rule_is_a_line_once_and_behind_the_mechanisms() -> None:
    table = only(*runs("softmax", 0.5, 0.5), *runs("abc", 0.1, 0.1))
    assert [line[0] for line in table.lines] == [
        *("softmax", "abc", "rule: first token", "rule: majority class")
    ]
    assert lines(table)["rule: first token"] == ["0.3600 (2 equal)"]
    assert table.num_apart == 2


def test_a_rule_of_a_group_of_rows_is_no_column() -> None:
    """As the scores of mechanisms: those of single lengths stand in figures."""
    (record,) = runs("softmax", 0.5)
    of_group = Measurement(
        "accuracy_4_pairs", 0.2, direction="higher", split="test", seq_len=16, rule="first token"
    )
    table = only(replace(record, measurements=(*record.measurements, of_group)))
    assert all("4_pairs" not in column for column in table.header)


def test_a_rule_has_no_ratio_no_rank_and_is_never_bold() -> None:
    scores = quality(rows(runs("softmax", 0.2), runs("abc", 0.1)))
    with_rules = with_ratios(scores).set_index("attention")["ratio"]
    assert with_rules["abc"] == 0.5
    assert math.isnan(with_rules["rule: first token"])
    (table,) = leaderboards(scores)
    assert {table.lines[i][0] for i, _ in table.best} == {"softmax"}


def test_a_mean_whose_interval_a_rule_reaches_is_marked_with_the_rule() -> None:
    table = only(
        *runs("softmax", 0.90, 0.91, 0.92),
        *runs("abc", 0.37, 0.40, 0.34),  # its mean is above the rule, its interval is not
        *runs("local", 0.37, 0.38),  # of two seeds both have to be above it
        *runs("none", 0.35, 0.38),
        *runs("lara", 0.36),
    )
    marked = {name for name, cells in lines(table).items() if "‡" in cells[0]}
    assert marked == {"abc", "none", "lara"}
    assert lines(table)["abc"] == ["0.370 ± 0.075‡ (0.41×)"]
    assert "‡: not above the best rule, given the interval: first token (mqar accuracy ↑)." in (
        table.notes
    )
    above = only(*runs("softmax", 0.9))
    assert not any(note.startswith("‡") for note in above.notes)


def test_of_an_error_the_lower_is_above_the_rule() -> None:
    rules = {"zero": {"mse": 1.0}, "mean": {"mse": 0.8}}
    table = only(
        train("softmax", {"mse": 0.5}, rules=rules), train("abc", {"mse": 0.9}, rules=rules)
    )
    assert lines(table)["abc"] == ["0.9000†‡ (1.80×)"]
    assert lines(table)["softmax"] == ["0.5000†"]
    assert [line[0] for line in table.lines[2:]] == ["rule: mean", "rule: zero"]


def test_a_rule_stands_in_the_table_of_every_pattern_of_its_task() -> None:
    failed = train("abc", status=Status.FAILED, pattern="noncausal_self")
    tables = leaderboards(quality(rows(runs("softmax", 0.5), failed)))
    assert ["rule: first token" in lines(table) for table in tables] == [True, True]


def test_a_rule_of_one_task_leaves_the_cells_of_others_empty() -> None:
    other = train("softmax", {"accuracy": 0.5}, task="other", dataset="other")
    assert lines(only(*runs("softmax", 0.5), other))["rule: first token"] == ["0.3600†", ""]


def test_other_data_have_other_rules_and_another_learning_rate_has_not() -> None:
    made = [
        train("abc", {"accuracy": 0.5}, rules={"first token": {"accuracy": n / 100}},
              data={"n": n}, model={"lr": lr})
        for n in (10, 20) for lr in (0.1, 0.2)
    ]  # fmt: skip
    assert lines(only(*made))["rule: first token"] == ["0.1000†", "0.2000†"]


def test_a_rule_is_of_no_population_cost_or_failure() -> None:
    step = Measurement("step_time", 3.0, "ms", "lower", "train")
    table = rows(
        train(name, {"accuracy": 0.5}, rules=FIRST, extra=[step]) for name in ("softmax", "abc")
    )
    population = own_constants(own_scores(quality(table)))["population"]
    assert list(population) == ["abc, softmax"]
    (costs,) = training_costs(table)
    assert [line[0] for line in costs.lines] == ["abc", "softmax"]
    assert endings(table) is None


def test_a_run_that_measured_only_rules_is_still_a_line() -> None:
    table = rows(train("abc", rules=FIRST, status=Status.FAILED), runs("softmax", 0.5))
    (found,) = leaderboards(quality(table))
    assert lines(found)["abc"] == ["failed"]


def test_rules_are_set_apart_in_every_form() -> None:
    table = only(*runs("softmax", 0.5))
    assert "| *rule: first token* | *0.3600†* |" in table.markdown()
    assert table.latex().count(r"\midrule") == 2
    console = Console(width=80, record=True)
    table.show(console)
    assert "rule: first token" in console.export_text()


def test_the_bars_show_rules_hatched_and_the_best_as_a_line(tmp_path: Path, saved: dict) -> None:
    only_nll = {"uniform": {"nll": 2.0}}
    made = train("softmax", {"accuracy": 0.5, "nll": 1.0}, rules=BOTH | only_nll)
    table = rows(made, train("abc", {"accuracy": 0.3, "nll": 1.2}))
    (plot,) = Plotter(tmp_path, table).quality(quality(table))
    accuracy, nll = saved[plot.name].axes[:2]
    assert "Hatched: trivial rules" in plot.caption
    assert [bar.get_hatch() for bar in accuracy.patches].count("////") == 2
    assert [bar.get_hatch() for bar in nll.patches].count("////") == 1
    dotted = [line for line in accuracy.lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in dotted] == [pytest.approx(0.36)]
