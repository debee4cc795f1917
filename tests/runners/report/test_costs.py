import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from runners.records import Measurement, Record
from runners.report.cost_tables import at_the_end, tables
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


def test_memory_of_one_run_has_no_interval() -> None:
    memory = ({"forward_memory": d["forward_time"]} for d in (LINEAR, SOFTMAX))
    assert only(speed("abc", *memory)).interval is None


def in_turns(record: Record, turns: int, *, seed: int = 0) -> Record:
    """The run with a machine that is up to three times as slow in some turns, and 2 % of noise."""
    rng = np.random.default_rng(seed)
    slow = {n: rng.uniform(1, 3, turns) for n in LENGTHS}
    noise = rng.normal(1.0, 0.02, (2, len(LENGTHS), turns))
    samples = {
        who: {n: times[n] * slow[n] * noise[i, j] for j, n in enumerate(LENGTHS)}
        for i, (who, times) in enumerate(((None, LINEAR["forward_time"]),
                                          ("softmax", SOFTMAX["forward_time"])))
    }  # fmt: skip
    rows = [
        Measurement("forward_time", float(np.median(times)), "ms", "lower", seq_len=n,
                    attention=who, samples=tuple(times))
        for who, by_length in samples.items() for n, times in by_length.items()
    ]  # fmt: skip
    rows += [
        Measurement("forward_time_ratio", float(np.median(times / samples["softmax"][n])),
                    "ratio", "lower", seq_len=n)
        for n, times in samples[None].items()
    ]  # fmt: skip
    return replace(record, measurements=tuple(rows))


@pytest.mark.parametrize("turns", [5, 30])
def test_the_turns_of_one_run_give_it_an_interval(turns: int) -> None:
    found = only(in_turns(speed("abc", LINEAR, SOFTMAX), turns))
    assert found.interval is not None
    # The machine's pace cancels turn by turn: some per cent are left of a factor of three.
    assert 900 < found.interval.low < found.length < found.interval.high < 1100
    assert found.length == pytest.approx(1000, rel=0.05)
    for ratio, low, high, n in zip(found.ratios, found.low, found.high, LENGTHS, strict=True):
        assert low < ratio < high
        assert ratio == pytest.approx(1000 / n, rel=0.05)


def test_several_runs_tell_more_than_the_turns_of_one() -> None:
    made = [in_turns(speed("abc", LINEAR, SOFTMAX, seed=s), 30, seed=s) for s in (0, 1)]
    other = [replace(m, value=1.5 * m.value) if m.metric == "forward_time_ratio" and m.value
             else m for m in made[1].measurements]  # fmt: skip
    found = only(made[0], replace(made[1], measurements=tuple(other)))
    # 12.7 times the error of the mean of two; the turns alone would say some per cent.
    assert found.high[0] / found.ratios[0] > 5.0


def test_records_without_samples_have_no_interval() -> None:
    # The interquartile range of three calls, which older records keep, tells too little.
    record = speed("abc", LINEAR, SOFTMAX)
    scatter = [
        Measurement(f"forward_time_{what}", value, seq_len=n, attention=who)
        for who, times in ((None, LINEAR), ("softmax", SOFTMAX))
        for n in LENGTHS
        for what, value in (("iqr", 0.1 * times["forward_time"][n]), ("calls", 3))
    ]
    found = only(replace(record, measurements=(*record.measurements, *scatter)))
    assert found.interval is None
    assert found.length == pytest.approx(1000)
    crossings = tables([found])[0]
    assert [list(line) for line in crossings.lines] == [["abc", "1,000"]]


def scaled(costs: Mapping[str, Mapping[int, float]], by: float) -> dict[str, dict[int, float]]:
    return {metric: {n: by * cost for n, cost in of.items()} for metric, of in costs.items()}


def test_a_ratio_is_never_of_two_runs() -> None:
    # Three runs on a machine of three speeds; the medians of the curves are of different runs.
    made = [
        speed("abc", scaled(LINEAR, own * pace), scaled(SOFTMAX, pace), seed=seed)
        for seed, (own, pace) in enumerate(((4.0, 1.0), (0.5, 3.0), (1.0, 10.0)))
    ]
    found = only(*made)  # the median of softmax is 3, that of abc 4
    assert found.ratios == pytest.approx([1000 / n for n in LENGTHS])
    assert found.fit is not None
    assert found.fit.length == pytest.approx(1000)


def test_two_runs_are_joined_in_logarithms() -> None:
    # Twice as long and half as long cancel; the mean of 2 and 0.5 is 1.25.
    made = [
        speed("abc", scaled(LINEAR, factor), SOFTMAX, seed=i) for i, factor in enumerate((0.5, 2))
    ]
    found = only(*made)
    assert found.ratios == pytest.approx([1000 / n for n in LENGTHS])
    assert found.fit is not None
    assert found.fit.length == pytest.approx(1000)


def test_runs_that_disagree_widen_the_interval() -> None:
    factors = (0.8, 1.0, 1.25)
    found = only(*(speed("abc", scaled(LINEAR, f), SOFTMAX, seed=i) for i, f in enumerate(factors)))
    assert found.interval is not None
    # t of 2 degrees of freedom, times the error of a median of three, times s = log 1.25.
    half = math.exp(4.303 * 0.6698 * math.log(1.25))
    assert found.low == pytest.approx([ratio / half for ratio in found.ratios], rel=1e-3)
    assert found.high == pytest.approx([ratio * half for ratio in found.ratios], rel=1e-3)
    # Nearly so the length, of slope -1; between two lengths the errors average out.
    assert 1000 / half < found.interval.low < 700
    assert 1400 < found.interval.high < 1000 * half


def test_the_smallest_length_is_left_out_of_the_fit_of_time_and_of_no_other() -> None:
    odd = dict(LINEAR["forward_time"]) | {256: 1.0}
    both = {"forward_time": odd, "forward_memory": odd}
    beside = {"forward_time": SOFTMAX["forward_time"], "forward_memory": SOFTMAX["forward_time"]}
    found = {
        one.key["quantity"]: one.fit
        for one in efficiencies(costs(rows(speed("abc", both, beside))))
    }
    time, memory = found["time"], found["memory"]
    assert time is not None
    assert memory is not None
    assert time.length == pytest.approx(1000)
    line = np.polyfit(LENGTHS, list(odd.values()), 1)
    assert memory.length == pytest.approx(max(np.roots([1e-6, *-line])))


def test_a_curve_is_the_median_over_runs() -> None:
    made = [speed("abc", scaled(LINEAR, f), SOFTMAX, seed=i) for i, f in enumerate((1, 2, 30))]
    found = curves(costs(rows(made)))
    of_abc = found[found["attention"] == "abc"]
    assert of_abc["value"].tolist() == pytest.approx([2 * n / 1000 for n in LENGTHS])


def test_a_sweep_of_speed_ends_with_ratios_and_efficiency_lengths() -> None:
    without: dict[int, float | None] = dict(LINEAR["forward_time"]) | {2048: None}
    made = [
        speed("abc", LINEAR, SOFTMAX),
        speed("performer", {"forward_time": without}, SOFTMAX, comment="oom at 2048"),
        speed("softmax", SOFTMAX, SOFTMAX),
    ]
    ratios, crossings = at_the_end(efficiencies(costs(rows(made))))
    assert ratios.title == "Cost over that of softmax at 2,048 tokens, noncausal self"
    assert [list(line) for line in ratios.lines] == [
        ["abc", "0.49×"],
        ["performer", "0.98× at 1,024"],
        ["softmax", "1.00×"],
    ]
    assert [list(line) for line in crossings.lines] == [["abc", "1,000"], ["performer", "1,000"]]
    assert at_the_end([]) == []


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
    assert list(fits.lines[0]) == ["abc", "1,000", "1,877ᵐ", "70ˡ"]
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
