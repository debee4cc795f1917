"""The records of result folders: each once, the newest of each experiment; what was left out."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runners.records import Record, RecordStore, Status, printable

NUM_EXAMPLES = 3
"""How many of the records that share a fate are named."""


class NoRecords(ValueError):
    """The result folders hold nothing to report on."""


@dataclass(frozen=True)
class Collection:
    """What the result folders hold.

    Attributes:
        folders: Where it was read.
        records: Every record that counts, once.
        problems: A line for each file that was left out, and for each reason to leave out others.
    """

    folders: tuple[Path, ...]
    records: tuple[Record, ...]
    problems: tuple[str, ...]


def collect(folders: Sequence[Path]) -> Collection:
    """Read the records of result folders.

    Of two with the same settings, code and data the later one counts; of two with the same settings
    and other code or data, the newer one supersedes the other.

    Raises:
        NoRecords: If a folder does not exist or holds no record, or if none is readable.
    """
    newest: dict[str, Record] = {}
    unusable: list[str] = []
    num_again = 0
    for folder in folders:
        records, unreadable = RecordStore(folder).read_all()
        unusable += unreadable
        if not records and not unreadable:
            raise NoRecords(_no_records(folder))
        for record in records:
            if not record.labels.get("attention"):
                unusable.append(f"run {record.run_id} in {folder} names no attention, left out")
                continue
            other = newest.get(record.run_id)
            num_again += other is not None
            if other is None or _is_later(record, other):
                newest[record.run_id] = record
    if not newest:
        raise NoRecords(printable(f"no readable record in {folders[0]}: {unusable[0]}"))
    current, problems = _current(list(newest.values()))
    if num_again:
        problems.append(f"{num_again} runs are in more than one folder: the later one counts")
    problems += unusable
    return Collection(tuple(folders), tuple(current), tuple(map(printable, problems)))


def _no_records(folder: Path) -> str:
    what = "holds no records" if folder.exists() else "does not exist"
    return printable(
        f"result folder {folder} {what} (expected {folder / 'runs'}/*.json, as a run writes it)"
    )


def _is_later(record: Record, other: Record) -> bool:
    """A run that came to its end outdoes one that did not; then the later one counts."""
    ended = (Status.OK, Status.DIVERGED)
    return (record.status in ended, record.started_at) >= (other.status in ended, other.started_at)


def _current(records: list[Record]) -> tuple[list[Record], list[str]]:
    """The records that no newer one supersedes, however that one ended; and a word on the others.

    A number of code that has changed since is no number of the code that is there now.
    """
    experiments: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        experiments[record.settings_id or record.run_id].append(record)
    # A run that died has no time of its own; it was the last attempt.
    newest = {
        key: max(of, key=lambda record: (not record.started_at, record.started_at))
        for key, of in experiments.items()
    }
    stale = [
        (record, newest[key])
        for key, of in experiments.items()
        for record in of
        if record is not newest[key]
    ]
    if not stale:
        return records, []
    examples = [_superseded(old, new) for old, new in stale[:NUM_EXAMPLES]]
    problem = f"{len(stale)} records are superseded by newer ones of other code or data, left out: "
    rest = ["…"] if len(stale) > NUM_EXAMPLES else []
    gone = {id(old) for old, _ in stale}
    return (
        [record for record in records if id(record) not in gone],
        [problem + "; ".join(examples + rest)],
    )


def _superseded(old: Record, new: Record) -> str:
    names = [old.labels.get(key) for key in ("attention", "task", "pattern")]
    named = " ".join(str(name) for name in names if name)
    seed = old.labels.get("seed")
    changed = [
        key
        for key in {**old.sources, **new.sources}
        if old.sources.get(key) != new.sources.get(key)
    ]
    of = f" of {old.started_at}" if old.started_at else ""
    why = f" ({', '.join(sorted(changed)[:2])} changed since)" if changed else ""
    return f"{named}{'' if seed is None else f' seed {seed}'}{of}{why}"
