"""Where the data of Long Range Arena come from, and what may be wrong there."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tasks.data import TEST_SEED, VALIDATION_SEED, TaskData, check_counts

Protocol = Literal["fixed", "lra2020"]
PROTOCOLS = ("fixed", "lra2020")
Part = Literal["train", "validation", "test"]


class LraData(TaskData):
    """What the data of all tasks have in common.

    Args:
        source: "generated", "hub" where the hub has the data, or a path of this machine.
        num_train: Training rows. Of a source that is read at most so many, spread evenly over it;
            None for all.
        num_eval: Validation rows, and test rows; likewise.
        max_len: Tokens of a row.
        protocol: "fixed", or "lra2020" for what the original did.
        cache_dir: Where generated rows are kept; see `tasks.shards`.
        **loading: See `TaskData`.

    Raises:
        ValueError: If one of these is not so.
    """

    task: str
    """In messages."""
    sources: str
    """What `source` may be, in messages."""
    has_hub = False

    def __init__(
        self,
        *,
        source: str,
        num_train: int | None = None,
        num_eval: int | None = None,
        max_len: int,
        protocol: Protocol = "fixed",
        cache_dir: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_counts(num_train=num_train, num_eval=num_eval, max_len=max_len)
        if protocol not in PROTOCOLS:
            raise ValueError(
                f"{self.task}: protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}"
            )
        if source == "generated" and (num_train is None or num_eval is None):
            raise ValueError(
                f"{self.task}: of generated rows num_train and num_eval must be said, got "
                f"{num_train} and {num_eval}"
            )
        is_there = source == "generated" or (source == "hub" and self.has_hub)
        if not is_there and not Path(source).exists():
            raise ValueError(f"{self.task}: source must be {self.sources}; {source!r} is not there")
        self.source, self.protocol, self.cache_dir = source, protocol, cache_dir
        self.num_train, self.num_eval, self.max_len = num_train, num_eval, max_len

    def setup(self, stage: str | None = None) -> None:
        """Read or generate all rows, once."""
        if hasattr(self, "train"):
            return
        if self.source != "generated":
            self._read()
            return
        assert self.num_train is not None
        assert self.num_eval is not None
        self.train = self._generated("train", self.seed, self.num_train)
        self.validation = self._generated("validation", VALIDATION_SEED, self.num_eval)
        self.test = self._generated("test", TEST_SEED, self.num_eval)

    def _generated(self, part: Part, seed: int, num_rows: int) -> Any:
        """Generated rows of one part of the data."""
        raise NotImplementedError

    def _read(self) -> None:
        """Set `train`, `validation` and `test` from the source."""
        raise NotImplementedError


def spread(total: int, count: int | None) -> Tensor:
    """The numbers of `count` rows of `total`, evenly spread: files are often sorted by class."""
    count = total if count is None else min(count, total)
    return torch.arange(count) * total // max(count, 1)


def hold_out(total: int) -> tuple[Tensor, Tensor]:
    """The numbers of nine rows in ten, and of each tenth one."""
    rows = torch.arange(total)
    return rows[rows % 10 != 9], rows[rows % 10 == 9]


def find(folder: Path, *names: str) -> Path | None:
    """The first of these files that is in the folder, as it is or with ".gz" behind its name."""
    wanted = [folder / f"{name}{end}" for name in names for end in ("", ".gz")]
    return next((path for path in wanted if path.is_file()), None)


def missing(folder: Path, names: Sequence[str]) -> ValueError:
    """Says which files were looked for."""
    others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
    return ValueError(f"missing file {folder / names[0]}{others}")


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, which may be compressed, with their numbers, counted from 1.

    Raises:
        ValueError: If it cannot be read, or has no line.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield number, line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not number:
        raise ValueError(f"{path} is empty")


def parquet(path: Path, *columns: str) -> list[list[Any]]:
    """Columns of a parquet file, each a list; one may go by several names: "img|image".

    Raises:
        ValueError: If it cannot be read, has no such column, or no row.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error
    found = []
    for names in columns:
        name = next((name for name in names.split("|") if name in table.column_names), None)
        if name is None:
            raise ValueError(
                f"{path} has no column {names.replace('|', ' or ')!r}, it has: "
                f"{', '.join(table.column_names)}"
            )
        found.append(table.column(name).to_pylist())
    if not table.num_rows:
        raise ValueError(f"{path} is empty: it has no rows")
    return found


def from_hub(name: str, split: str, forms: str) -> Any:
    """A split of a data set on the Hugging Face hub.

    Args:
        name: Of the data set.
        split: Of it.
        forms: What `source` may be instead, in the message.

    Raises:
        ValueError: If it cannot be had.
    """
    from datasets import load_dataset

    try:
        return load_dataset(name, split=split)
    except OSError as error:  # no connection, or not found: both are OSErrors here
        raise ValueError(
            f"cannot get {name} from the Hugging Face hub ({str(error).splitlines()[0]}); "
            f"source may also be {forms}"
        ) from error


def check_label(label: Any, num_classes: int, where: str) -> int:
    """A label that is a whole number below `num_classes`; `where` names its place."""
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < num_classes:
        raise ValueError(f"{where}: expected a label of 0 to {num_classes - 1}, got {label!r}")
    return label
