"""What a single run prints at its end."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from runners.records import Record, Status


def show(records: Sequence[Record]) -> int:
    """Print each run's status and its numbers, and return the exit code.

    It is 1 if one did not end well; of `verify`, 1 is a verdict, and 2 means that there is none.
    """
    for record in records:
        if record.status is Status.OK:
            if record.command == "verify":  # it has printed a table of its own
                continue
            Console().print(_table(record))
        else:
            print(f"attnbench: {record.status}: {record.error}", file=sys.stderr)
    bad = [record for record in records if record.status is not Status.OK]
    undecided = [r for r in bad if r.command == "verify" and r.status is not Status.UNSUPPORTED]
    return 2 if any(not r.measurements for r in undecided) else int(bool(bad))


def _table(record: Record) -> Table:
    labels = (record.labels.get(key) for key in ("task", "dataset", "attention", "pattern"))
    table = Table(title=" ".join(str(label) for label in labels if label is not None))
    for column in ("metric", "value", "unit", "split", "length", "better"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for m in record.measurements:
        if m.step is not None:  # a curve is for the report
            continue
        value = "" if m.value is None else f"{m.value:.5g}"
        name = m.metric if m.attention is None else f"{m.metric} of {m.attention}"
        table.add_row(name, value, m.unit, m.split, str(m.seq_len or ""), m.direction)
    return table
