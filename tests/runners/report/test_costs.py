import math

import pytest

from runners.records import Measurement, Record
from runners.report.cost_tables import tables
from runners.report.costs import Efficiency, costs, curves, efficiencies
from runners.report.efficiency import ALWAYS, NEVER
from tests.runners.report.made import rows, speed

LENGTHS: tuple[int, ...] = (256, 512, 1024, 2048)
SOFTMAX = {"forward_time": {n: (n / 1000) ** 2 for n in LENGTHS}}
LINEAR = {"forward_time": {n: n / 1000 for n in LENGTHS}}


def only(*records: Record) -> Efficiency:
    (found,) = efficiencies(costs(rows(list(records))))
    return found


def test_a_mechanism_is_compared_with_the_baseline_of_its_own_run() -> None:
    slow = {"forward_time": {n: 3 * cost for n, cost in SOFTMAX["forward_time"].items()}}
    slower = {"forward_time": {n: 3 * cost for n, cost in LINEAR["forward_time"].items()}}
    # A machine at a third of its speed slows both; the other run's baseline says nothing of it.
    found = efficiencies(
        costs(rows(speed("abc", LINEAR, SOFTMAX), speed("performer", slower, slow)))
    )
    assert [one.length for one in found] == pytest.approx([1000, 1000])


def test_passes_are_not_mistaken_for_one_another() -> None:
    both = {"forward_time": {256: 1.0}, "forward_backward_time": {256: 2.0}}
    extra = both | {"weights_memory": {256: 1.0}, "forward_flops": {256: 9.0}}
    found = efficiencies(costs(rows(speed("abc", extra, both))))
    assert {(one.key["pass"], one.key["quantity"]) for one in found} == {
        ("forward", "time"),
        ("forward_backward", "time"),
    }
    measured = costs(rows(speed("abc", extra, both)))
    assert sorted(measured.query("not is_baseline")["value"]) == [1.0, 2.0]


def test_lengths_without_the_baseline_are_left_out() -> None:
    without: dict[int, float | None] = dict(SOFTMAX["forward_time"]) | {2048: None}
    found = only(speed("abc", LINEAR, {"forward_time": without}, comment="oom at 2048"))
    assert found.length == pytest.approx(1000)
    assert math.isnan(found.ratios[-1])
    assert found.ratios[0] == pytest.approx(1 / 0.256)


def test_runs_are_joined_by_the_median() -> None:
    made = [
        speed("abc", {"forward_time": {n: factor * n / 1000 for n in LENGTHS}}, SOFTMAX, seed=seed)
        for seed, factor in enumerate((0.9, 1.0, 1.4))
    ]
    found = only(*made)
    assert found.length == pytest.approx(1000)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((900, 1400))


def test_memory_of_one_run_has_no_interval() -> None:
    memory = ({"forward_memory": d["forward_time"]} for d in (LINEAR, SOFTMAX))
    assert only(speed("abc", *memory)).interval is None


def test_the_scatter_of_calls_gives_one_run_an_interval() -> None:
    record = speed("abc", LINEAR, SOFTMAX)
    scatter = [
        Measurement(f"forward_time_{what}", value, seq_len=n, attention=who)
        for who, times in ((None, LINEAR), ("softmax", SOFTMAX))
        for n in LENGTHS
        for what, value in (("iqr", 0.1 * times["forward_time"][n]), ("calls", 25))
    ]
    found = only(Record(**{**vars(record), "measurements": (*record.measurements, *scatter)}))
    assert found.interval is not None
    assert 950 < found.interval.low < 1000 < found.interval.high < 1050


def test_decoding_has_no_quadratic_to_fit() -> None:
    record = speed("abc", {"decode_time": LINEAR["forward_time"]},
                   {"decode_time": SOFTMAX["forward_time"]}, pattern="causal_self")  # fmt: skip
    assert only(record).fit is None
    assert only(record).length == pytest.approx(1000)


def test_never_and_below_in_the_table() -> None:
    cheap = {"forward_time": dict.fromkeys(LENGTHS, 1e-06)}
    dear = {"forward_time": dict.fromkeys(LENGTHS, 1000000.0)}
    found = efficiencies(
        costs(
            rows(
                speed("cheap", cheap, SOFTMAX),
                speed("dear", dear, SOFTMAX),
                speed("abc", LINEAR, SOFTMAX),
                speed("softmax", SOFTMAX, SOFTMAX),
            )
        )
    )
    assert {one.key["attention"]: one.length for one in found} == pytest.approx(
        {"cheap": ALWAYS, "dear": NEVER, "abc": 1000, "softmax": NEVER}
    )
    crossings, fits, ratios = tables(found)
    assert [list(line) for line in crossings.lines] == [
        ["abc", "1,000"],
        ["cheap", "below 256"],
        ["dear", "never (to 2,048)"],
    ]
    assert fits.header[-2:] == ["noncausal self, CAB|time", "noncausal self, CAB|memory"]
    assert list(fits.lines[0]) == ["abc", "1,000", "1,877", "70"]
    assert ["softmax", "forward, time", "1.00×", "1.00×", "1.00×", "1.00×"] in ratios.lines


def test_cabs_lengths_stand_beside_its_own_pattern_only() -> None:
    found = efficiencies(costs(rows(speed("abc", LINEAR, SOFTMAX, pattern="causal_self"))))
    fits = tables(found)[1]
    assert not any("CAB" in column for column in fits.header)


def test_the_baseline_is_one_curve_over_all_runs() -> None:
    made = [speed(name, LINEAR, SOFTMAX) for name in ("abc", "performer", "softmax")]
    found = curves(costs(rows(made)))
    assert found.groupby("attention").size().to_dict() == {
        name: len(LENGTHS) for name in ("abc", "performer", "softmax")
    }


def test_without_speed_runs_there_are_no_tables() -> None:
    assert tables([]) == []
