import pytest

from runners.records import Measurement, Record, Status
from runners.report.training_cost import tables
from tests.runners.report.made import rows, train


def trained(attention: str, step_ms: float, *, seed: int = 0, ratio: float | None = None) -> Record:
    """A run; with a ratio it has timed steps of softmax, in turns with its own."""
    extra = [Measurement("step_time", step_ms, "ms", "lower", "train")]
    extra += [Measurement("parameters", 100.0, "", "lower")]
    if ratio is not None:
        beside = Measurement(
            "step_time", step_ms / ratio, "ms", "lower", "train", attention="softmax"
        )
        extra += [beside, Measurement("step_time_ratio", ratio, "ratio", "lower", "train")]
    return train(attention, {"accuracy": 0.5}, seed=seed, extra=extra)


def lines(*records: Record) -> list[list[str]]:
    (table,) = tables(rows(list(records)))
    return [list(line) for line in table.lines]


def test_two_runs_are_of_two_moments_and_have_no_ratio() -> None:
    # The same softmax took 11 ms a step, and 75 within the minute.
    made = lines(trained("softmax", 11.0), trained("abc", 75.0))
    assert made == [["abc", "75.00†", "100.0†"], ["softmax", "11.00†", "100.0†"]]


def test_a_ratio_is_that_of_steps_in_turns() -> None:
    made = lines(trained("softmax", 11.0, ratio=1.01), trained("abc", 75.0, ratio=0.8))
    assert made[0][1] == "75.00† (0.80×)"
    assert made[1][1] == "11.00†"  # softmax beside itself is the noise


def test_no_time_is_the_best() -> None:
    (table,) = tables(rows(trained("softmax", 11.0), trained("abc", 75.0)))
    assert not table.best


def test_the_steps_of_the_baseline_are_no_run_of_softmax() -> None:
    made = lines(trained("abc", 75.0, ratio=0.8))
    assert [line[0] for line in made] == ["abc"]


@pytest.mark.parametrize("ratios", [(0.5, 1.5), (1.0, 1.0)])
def test_seeds_are_averaged(ratios: tuple[float, float]) -> None:
    made = [trained("abc", 10.0, seed=seed, ratio=ratio) for seed, ratio in enumerate(ratios)]
    assert lines(*made)[0][1].endswith("(1.00×)")


def test_a_run_that_failed_is_told() -> None:
    made = lines(trained("softmax", 11.0), train("abc", status=Status.OOM, error="no memory"))
    assert made[0] == ["abc", "oom", "oom"]


def test_without_training_there_is_no_table() -> None:
    assert tables(rows(train("abc", {"accuracy": 0.5}))) == []
