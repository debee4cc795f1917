import math

from runners.records import Measurement, Record, Status
from runners.report.leaderboard import leaderboards, with_ratios
from runners.report.render import Table
from runners.report.scores import quality
from tests.runners.report.made import rows, train


def only(*records: Record) -> Table:
    (table,) = leaderboards(quality(rows(list(records))))
    return table


def lines(table: Table) -> dict[str, list[str]]:
    return {line[0]: list(line[1:]) for line in table.lines}


def test_a_known_table() -> None:
    table = only(
        *(train("softmax", {"accuracy": 0.9, "nll": 1.0}, seed=seed) for seed in (0, 1)),
        train("abc", {"accuracy": 0.45, "nll": 0.5}),
        train("performer", status=Status.OOM),
    )
    assert table.title == "Leaderboard, causal self"
    assert table.header == ["attention", "mqar|accuracy ↑", "mqar|nll ↓"]
    assert lines(table) == {
        "softmax": ["0.9000 (2 equal)", "1.000 (2 equal)"],
        "abc": ["0.4500† (0.50×)", "0.5000† (0.50×)"],
        "performer": ["oom", "oom"],
    }


def test_the_best_is_marked_in_the_direction_of_the_metric() -> None:
    table = only(
        train("softmax", {"accuracy": 0.9, "nll": 1.0}),
        train("abc", {"accuracy": 0.8, "nll": 0.5}),
    )
    best = {(table.lines[i][0], table.header[j]) for i, j in table.best}
    assert best == {("softmax", "mqar|accuracy ↑"), ("abc", "mqar|nll ↓")}


def test_a_tie_has_two_best() -> None:
    table = only(train("softmax", {"accuracy": 0.9}), train("abc", {"accuracy": 0.9}))
    assert len(table.best) == 2


def test_what_reads_the_same_is_bold_together() -> None:
    table = only(
        train("softmax", {"accuracy": 0.99951}),
        train("abc", {"accuracy": 0.99949}),
        train("local", {"accuracy": 0.9}),
    )
    best = {table.lines[i][0] for i, _ in table.best}
    assert best == {"softmax", "abc"}
    zero = only(train("softmax", {"mse": 0.0}), train("abc", {"mse": 0.3}))
    assert {zero.lines[i][0] for i, _ in zero.best} == {"softmax"}


def test_a_run_that_diverged_is_never_first() -> None:
    table = only(
        *(train("abc", {"mse": value}, seed=i) for i, value in enumerate((0.2, 0.3, math.nan))),
        *(train("softmax", {"mse": 0.4}, seed=i) for i in range(3)),
        *(train("local", {"mse": 0.1}, seed=i) for i in range(2)),
        train("local", status=Status.DIVERGED, seed=2),
    )
    assert lines(table) == {
        "softmax": ["0.4000 (3 equal)"],
        "abc": ["not finite (1 of 3)"],
        "local": ["diverged (1 of 3)"],
    }
    assert {table.lines[i][0] for i, _ in table.best} == {"softmax"}
    assert any(note.startswith("diverged or not finite") for note in table.notes)


def twin(name: str, values: tuple[float, ...], seed: int = 0) -> Record:
    curve = [
        Measurement("nll", value, "", "lower", "validation", step=step)
        for step, value in enumerate(values)
    ]
    return train(name, {"nll": values[-1] / 2}, seed=seed, extra=curve)


def test_a_window_as_long_as_the_input_is_said_to_be_softmax() -> None:
    values = (2.5, 1.25, 0.7)
    table = only(
        *(twin("softmax", values, seed) for seed in (0, 1)),
        *(twin("local_window", values, seed) for seed in (0, 1)),
        *(twin("abc", (2.5, 1.25, 0.7 + seed / 8), seed) for seed in (0, 1)),
    )
    told = lines(table)
    assert list(told) == ["softmax", "local_window", "abc"]
    assert told["local_window"] == ["same as softmax here"]
    assert told["softmax"] == ["0.3500 (2 equal)"]
    assert told["abc"] == ["0.381 (0.350 … 0.412) (1.09×)"]
    assert {table.lines[i][0] for i, _ in table.best} == {"softmax", "local_window"}
    assert any(note.startswith("same as …") for note in table.notes)


def test_scores_that_only_agree_in_the_end_are_of_two_mechanisms() -> None:
    table = only(twin("softmax", (2.0, 1.0, 0.5)), twin("abc", (3.0, 1.0, 0.5)))
    assert lines(table)["abc"] == ["0.2500† (1.00×)"]
    solved = only(train("softmax", {"accuracy": 1.0}), train("abc", {"accuracy": 1.0}))
    assert lines(solved)["abc"] == ["1.000† (1.00×)"]


def test_rows_with_most_results_come_first_then_by_rank() -> None:
    table = only(
        train("softmax", {"accuracy": 0.5}),
        train("abc", {"accuracy": 0.7}),
        train("local", {"accuracy": 0.9}, task="other", dataset="o"),
        train("local", {"accuracy": 0.1}),
        train("never", status=Status.FAILED),
    )
    assert [line[0] for line in table.lines] == ["local", "abc", "softmax", "never"]


def test_what_was_not_run_is_no_hole() -> None:
    table = only(
        train("softmax", {"accuracy": 0.5}),
        train("abc", {"mse": 0.5}, task="other", dataset="other"),
    )
    assert lines(table) == {"softmax": ["0.5000†", "–"], "abc": ["–", "0.5000†"]}
    assert "–: not run." in table.notes


def test_failed_seeds_show_beside_the_others() -> None:
    table = only(
        train("softmax", {"accuracy": 0.5}, seed=0), train("softmax", seed=1, status=Status.FAILED)
    )
    assert lines(table)["softmax"] == ["0.5000† [1 of 2 failed]"]


def test_a_task_that_failed_everywhere_is_a_column_of_statuses() -> None:
    table = only(train("abc", status=Status.FAILED), train("local", status=Status.TIMEOUT))
    assert lines(table) == {"abc": ["failed"], "local": ["timeout"]}


def test_the_ratio_is_to_softmax_in_the_same_settings() -> None:
    made = [
        train(name, {"mse": value}, model={"lr": lr})
        for name, lr, value in (
            ("softmax", 0.1, 2.0),
            ("softmax", 0.2, 4.0),
            ("abc", 0.1, 1.0),
            ("abc", 0.2, 1.0),
            ("abc", 0.3, 1.0),
        )
    ]
    found = with_ratios(quality(rows(made))).set_index(["attention", "setting"])["ratio"]
    assert found["abc", "lr=0.1"] == 0.5
    assert found["abc", "lr=0.2"] == 0.25
    assert found.isna()["abc", "lr=0.3"]


def test_a_baseline_of_zero_gives_no_ratio() -> None:
    table = only(train("softmax", {"accuracy": 0.0}), train("abc", {"accuracy": 0.5}))
    assert lines(table)["abc"] == ["0.5000†"]


def test_variants_are_lines_of_their_own() -> None:
    table = only(
        *(train("local", {"accuracy": w / 32}, settings={"window": w}) for w in (8, 16)),
    )
    assert lines(table) == {"local (window=16)": ["0.5000†"], "local (window=8)": ["0.2500†"]}


def test_two_backbones_of_one_task_are_two_columns() -> None:
    table = only(
        *(train("softmax", {"mse": 1.0}, backbone=b, model={"_target_": b}) for b in ("A", "B"))
    )
    assert table.header == ["attention", "mqar A|mse ↓", "mqar B|mse ↓"]


def test_a_stand_in_is_explained() -> None:
    table = only(train("softmax", {"mse": 1.0}, dataset="ETTh1-synthetic"))
    assert any(note.startswith("-synthetic:") for note in table.notes)


def test_one_table_per_pattern() -> None:
    made = [train(pattern=p, scores={"mse": 1.0}) for p in ("causal_cross", "noncausal_self")]
    found = leaderboards(quality(rows(made)))
    assert [table.name for table in found] == [
        "leaderboard_noncausal_self",
        "leaderboard_causal_cross",
    ]
