"""What a single run prints at its end."""

import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from runners.records import Measurement, Record, Status


def show(records: Sequence[Record]) -> int:
    """Print each run's status and its numbers, and return the exit code.

    It is 1 if one did not end well; of `verify`, 1 is a verdict, and 2 means that there is none.
    """
    for record in records:
        if record.status is Status.OK:
            if record.command == "verify":  # it has printed a table of its own
                continue
            Console().print(_costs(record) if record.command == "speed" else _table(record))
        else:
            print(f"attnbench: {record.status}: {record.error}", file=sys.stderr)
    bad = [record for record in records if record.status is not Status.OK]
    undecided = [r for r in bad if r.command == "verify" and r.status is not Status.UNSUPPORTED]
    return 2 if any(not r.measurements for r in undecided) else int(bool(bad))


def _title(record: Record) -> str:
    labels = (record.labels.get(key) for key in ("task", "dataset", "attention", "pattern"))
    return " ".join(str(label) for label in labels if label is not None)


def _table(record: Record) -> Table:
    table = Table(title=_title(record))
    for column in ("metric", "value", "unit", "split", "length", "better"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for m in record.measurements:
        if m.step is not None:  # a curve is for the report
            continue
        who = m.attention if m.rule is None else f"rule: {m.rule}"
        name = m.metric if who is None else f"{m.metric} of {who}"
        table.add_row(name, _number(m), m.unit, m.split, str(m.seq_len or ""), m.direction)
    return table


def _costs(record: Record) -> Table:
    """A row per pass and length of a speed run; its record has every number."""
    baseline = str(record.config.get("baseline"))
    columns = {
        "ms": (None, "time"),
        f"{baseline} ms": (baseline, "time"),
        "ratio": (None, "time_ratio"),
        "MiB": (None, "memory"),
        f"{baseline} MiB": (baseline, "memory"),
        "MFLOP": (None, "flops"),
    }
    rows = {(m.attention, m.metric, m.seq_len): m for m in record.measurements}
    table = Table(
        title=_title(record),
        caption=f"ratio: of times to {baseline}, in turns",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("pass", no_wrap=True)
    for column in ("length", *columns):
        table.add_column(column, justify="right")
    ends = [(m.metric, m.seq_len) for m in record.measurements if m.metric.endswith("_time_ratio")]
    passes = list(dict.fromkeys(metric for metric, _ in ends))
    for metric, seq_len in sorted(ends, key=lambda end: passes.index(end[0])):
        name = metric.removesuffix("_time_ratio")
        cells = []
        for column, (who, what) in columns.items():
            m = rows.get((who, f"{name}_{what}", seq_len))
            cells.append("" if m is None else _number(m, 3, 1e6 if column == "MFLOP" else 1.0))
        table.add_row(name, f"{seq_len:,}", *cells)
    return table


def _number(m: Measurement, digits: int = 5, unit: float = 1.0) -> str:
    """The value, or in a word or two why there is none: `oom`."""
    reason = m.comment.removeprefix("own: ").partition(":")[0].partition(" at ")[0]
    return reason if m.value is None else f"{m.value / unit:.{digits}g}"
