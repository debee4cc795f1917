"""Efficiency lengths and cost ratios as tables, with CAB's efficiency lengths beside ours."""

import math
from typing import Any

import pandas as pd

from runners.report.costs import PASSES, QUANTITIES, Efficiency
from runners.report.efficiency import NEVER, Fit, interval_words, words
from runners.report.grid import NOT_RUN
from runners.report.published import slips
from runners.report.published.cab import read
from runners.report.render import Table
from runners.report.table import BASELINE, PATTERNS, known_patterns, row_name

CAB_SMALLEST = 256
"""The smallest length that CAB measured."""


def tables(found: list[Efficiency]) -> list[Table]:
    """Per pattern the efficiency lengths and the cost ratios; and CAB's fit over all of them."""
    compared = _compared(found)
    made = [_crossings(pattern, own) for pattern, own in _by_pattern(compared)]
    fitted = [one for one in compared if one.key["pass"] == "forward" and one.fit is not None]
    made += [_fits(fitted)] if fitted else []
    return made + [_ratios(pattern, own) for pattern, own in _by_pattern(found)]


def at_the_end(found: list[Efficiency]) -> list[Table]:
    """What a sweep of speed runs prints: per pattern the ratios at the greatest length, and from
    which length on they are below 1.
    """
    greatest = [_greatest(pattern, own) for pattern, own in _by_pattern(found)]
    return greatest + [_crossings(pattern, own) for pattern, own in _by_pattern(_compared(found))]


def _compared(found: list[Efficiency]) -> list[Efficiency]:
    return [o for o in found if (o.key["attention"], o.key["variant"]) != (BASELINE, "")]


def _greatest(pattern: str, found: list[Efficiency]) -> Table:
    """The ratio of every pass at its greatest length with a value."""
    columns = list(dict.fromkeys(map(_column, sorted(found, key=_order))))
    longest = max(one.lengths[-1] for one in found)
    cells: dict[tuple[str, str], str] = {}
    for one in found:
        known = [(n, r) for n, r in zip(one.lengths, one.ratios, strict=True) if math.isfinite(r)]
        for length, ratio in known[-1:]:
            where = f" at {length:,}" if length < longest else ""
            cells[_name(one), _column(one)] = f"{ratio:.2f}×{where}"
    return Table(
        name=f"speed_{pattern}",
        title=f"Cost over that of {BASELINE} at {longest:,} tokens, "
        f"{PATTERNS.get(pattern, pattern)}",
        header=["attention", *columns],
        lines=[
            [name, *(cells.get((name, column), NOT_RUN) for column in columns)]
            for name in sorted({_name(one) for one in found})
        ],
        data=pd.DataFrame(map(_numbers, found)),
        notes=["Below 1: costs less. Measured in turns with the baseline of the same run."],
    )


def _fit_words(one: Efficiency) -> str:
    if one.fit is None:
        return NOT_RUN
    if math.isnan(one.fit.length):
        return "no root"
    told = words(one.fit.length, one.lengths[0], one.lengths[-1])
    return "never" if one.fit.length == NEVER else told


def _by_pattern(found: list[Efficiency]) -> list[tuple[str, list[Efficiency]]]:
    patterns = known_patterns(pd.DataFrame({"pattern": [one.key["pattern"] for one in found]}))
    return [(p, [one for one in found if one.key["pattern"] == p]) for p in patterns]


def _numbers(one: Efficiency) -> dict[str, Any]:
    low, high = (one.interval.low, one.interval.high) if one.interval else (math.nan, math.nan)
    fit = one.fit or Fit(math.nan, math.nan, math.nan)
    return one.key | {
        "smallest": one.lengths[0],
        "greatest": one.lengths[-1],
        "efficiency_length": one.length,
        "low": low,
        "high": high,
        "cab_fit": fit.length,
        "r2_baseline": fit.r2_baseline,
        "r2_mechanism": fit.r2_mechanism,
    }


def _name(one: Efficiency) -> str:
    return row_name(one.key["attention"], one.key["variant"], one.key["setting"])


def _column(one: Efficiency) -> str:
    return f"{PASSES[one.key['pass']]}|{one.key['quantity']}"


def _crossings(pattern: str, found: list[Efficiency]) -> Table:
    cells = {(_name(one), _column(one)): _crossing(one) for one in found}
    columns = list(dict.fromkeys(map(_column, sorted(found, key=_order))))
    return Table(
        name=f"efficiency_{pattern}",
        title=f"Efficiency length in tokens, {PATTERNS.get(pattern, pattern)}",
        header=["attention", *columns],
        lines=[
            [name, *(cells.get((name, column), NOT_RUN) for column in columns)]
            for name in sorted({name for name, _ in cells})
        ],
        data=pd.DataFrame(map(_numbers, found)),
        notes=[
            f"The length from which on the mechanism costs less than {BASELINE}, to the greatest "
            "measured; costs interpolated in log-log.",
            "[ ]: 95 % interval, over several runs, or over the turns of a single one.",
            "below: costs less at every measured length; never: not less at the greatest.",
        ],
    )


def _order(one: Efficiency) -> tuple[int, int]:
    return (list(PASSES).index(one.key["pass"]), list(QUANTITIES).index(one.key["quantity"]))


def _crossing(one: Efficiency) -> str:
    if math.isnan(one.length):
        return NOT_RUN
    ends = one.lengths[0], one.lengths[-1]
    text = words(one.length, *ends)
    if one.interval is None or words(one.interval.low, *ends) == words(one.interval.high, *ends):
        return text
    return f"{text} {interval_words(one.interval, *ends)}"


def _fits(found: list[Efficiency]) -> Table:
    """CAB's fit of the forward pass; CAB's own lengths beside the pattern that it measured."""
    order = known_patterns(pd.DataFrame({"pattern": [one.key["pattern"] for one in found]}))
    cells = {
        (_name(one), f"{PATTERNS.get(pattern, pattern)}|{one.key['quantity']}"): _fit_words(one)
        for pattern in order
        for one in sorted(found, key=_order)
        if one.key["pattern"] == pattern
    }
    columns = list(dict.fromkeys(column for _, column in cells))
    printed = _published_lengths()
    theirs = QUANTITIES if any(o.key["pattern"] == "noncausal_self" for o in found) else {}
    lines = [
        [
            name,
            *(cells.get((name, column), NOT_RUN) for column in columns),
            *(printed.get((attention, of), NOT_RUN) for of in theirs),
        ]
        for name, attention in sorted({(_name(one), one.key["attention"]) for one in found})
    ]
    return Table(
        name="efficiency_cab_fit",
        title="Efficiency length in tokens by CAB's fit, forward pass",
        header=["attention", *columns, *(f"noncausal self, CAB|{of}" for of in theirs)],
        lines=lines,
        data=pd.DataFrame(map(_numbers, found)),
        notes=[
            "The larger root of a quadratic through the baseline's costs less a line through the "
            "mechanism's (time: without its smallest length). In brackets: extrapolated.",
            "Where no quadratic term shows, the baseline is a line too. no root: the curves do not "
            "meet, and the costs as measured contradict them.",
            "CAB's own: one A100, float32, width 512, 8 heads, batch 4, 256 to 8,192 tokens, in "
            "training mode.",
            *slips.footnotes(cell for line in lines for cell in line[1:]),
        ],
    )


def _published_lengths() -> dict[tuple[str, str], str]:
    """CAB's efficiency lengths by mechanism and quantity, with the marks of their slips."""
    quantities = {theirs: ours for ours, theirs in QUANTITIES.items()}
    found = {}
    for row in read("efficiency_length").itertuples():
        length, quantity = int(row.efficiency_length), quantities[row.quantity]  # type: ignore[arg-type]
        number = {
            "attention": row.attention,
            "quantity": quantity,
            "is_extrapolated": length < CAB_SMALLEST,
        }
        found[row.attention, quantity] = f"{length:,}{slips.marks(slips.EFFICIENCY, number)}"
    return found


def _ratios(pattern: str, found: list[Efficiency]) -> Table:
    lengths = sorted({length for one in found for length in one.lengths})
    lines = []
    for one in sorted(found, key=lambda one: (*_order(one), _name(one))):
        ratio = dict(zip(one.lengths, one.ratios, strict=True))
        shown = (ratio.get(length, math.nan) for length in lengths)
        told = (NOT_RUN if math.isnan(value) else f"{value:.2f}×" for value in shown)
        lines.append([_name(one), _column(one).replace("|", ", "), *told])
    data = [
        one.key | {"seq_len": length, "ratio": ratio, "low": low, "high": high}
        for one in found
        for length, ratio, low, high in zip(one.lengths, one.ratios, one.low, one.high, strict=True)
    ]
    return Table(
        name=f"cost_ratio_{pattern}",
        title=f"Cost over that of {BASELINE}, {PATTERNS.get(pattern, pattern)}",
        header=["attention", "pass", *(f"{length:,}" for length in lengths)],
        lines=lines,
        data=pd.DataFrame(data),
        notes=[
            f"Over the {BASELINE} of the same run; the row {BASELINE} itself shows the noise.",
            f"{NOT_RUN}: not measured; the run's record tells why (memory, time).",
        ],
    )
