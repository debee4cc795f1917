"""`attnbench verify`: proves or refutes the claims of a mechanism, of any class by import path.

Every check runs in every claimed pattern. An exception inside the mechanism is a failed check;
what is unsupported is what the class declares, or its constructor where the settings decide.
"""

import dataclasses
import math
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from attentions.base import Attention, Pattern, UnsupportedPattern
from attentions.registry import factory, mechanism
from runners.checks import (
    decoding,
    dependence,
    leaks,
    learning,
    numbers,
    padding,
    repeatability,
    soundness,
)
from runners.checks.subject import TOLERANCES, Finding, Subject, Unexamined
from runners.records import Status
from runners.run import Run, status_of

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        examine: The check; its name is the row's.
        says: What holds where it passes.
        applies: Whether it is asked of a mechanism in a pattern.
        also: Modes in which it must hold too, beside evaluation; None where one does not differ.
        is_decoding: Without a decoding form it is missing, which is a warning.
    """

    examine: Callable[[Subject], Finding]
    says: str
    applies: Callable[[type[Attention], Pattern], bool] = lambda cls, pattern: True
    also: tuple[Callable[[Subject], Subject | None], ...] = ()
    is_decoding: bool = False

    @property
    def name(self) -> str:
        """The name in findings and records."""
        return self.examine.__name__


def _causal(cls: type[Attention], pattern: Pattern) -> bool:
    return pattern.is_causal


def _mixing(cls: type[Attention], pattern: Pattern) -> bool:
    return cls.mixes


DROPPING, DIFFERING = (Subject.dropping,), (Subject.differing,)
CHECKS = (
    Check(soundness.construction, "builds, and answers with the query's shape and type"),
    Check(soundness.keeps_inputs, "arguments are left as they were"),
    Check(numbers.finite, "outputs are finite at any magnitude"),
    Check(repeatability.determinism, "the same inputs give the same outputs"),
    Check(repeatability.generator, "the global generator is not seeded anew"),
    Check(repeatability.seeding, "the same seed gives the same weights"),
    Check(repeatability.state_dict, "the state_dict holds all it computes with"),
    Check(repeatability.batch, "samples of a batch do not mix", also=DROPPING),
    Check(
        leaks.leak_suffix,
        "other later queries change nothing",
        _causal,
        also=(Subject.dropping, Subject.halved, Subject.cast),
    ),
    Check(leaks.leak_length, "fewer later queries change nothing", _causal, also=DIFFERING),
    Check(leaks.leak_gradient, "no gradient by a later query", _causal),
    Check(dependence.uses_own, "an output depends on its own query", _mixing, also=DROPPING),
    Check(
        dependence.uses_earlier,
        "... on earlier positions",
        lambda cls, pattern: cls.mixes and not pattern.is_cross,
        also=DROPPING,
    ),
    Check(
        dependence.uses_later,
        "... on later positions",
        lambda cls, pattern: cls.mixes and pattern is Pattern.NONCAUSAL_SELF,
        also=DROPPING,
    ),
    Check(
        dependence.uses_source,
        "... on the source, all of it",
        lambda cls, pattern: cls.mixes and pattern.is_cross,
        also=DROPPING,
    ),
    Check(
        dependence.mixes_nothing,
        "an output depends on nothing else",
        lambda cls, pattern: not cls.mixes,
        also=DROPPING,
    ),
    Check(padding.padding_content, "what stands in padding changes nothing", also=DROPPING),
    Check(padding.padding_appended, "appended padding changes nothing", also=DIFFERING),
    Check(learning.training, "training without dropout = evaluation"),
    Check(decoding.step, "token by token = the parallel form", _causal, is_decoding=True),
    Check(decoding.prefill, "a prompt, then tokens = the parallel form", _causal, is_decoding=True),
    Check(decoding.beam, "a beam can be reordered", _causal, is_decoding=True),
    Check(decoding.state_growth, "the decoding state", _causal, is_decoding=True),
    Check(numbers.precision, "half precision differs by rounding"),
    Check(soundness.settings, "a misspelt setting is refused"),
    Check(learning.gradients, "every parameter gets a finite gradient"),
    Check(learning.dropout, "dropout acts, in training only"),
    Check(soundness.parameters, "parameters over softmax's, per layer"),
)
NOT_CLAIMED = Check(soundness.refusal, "a pattern not claimed is refused")
NEEDED = ("construction", "determinism")
"""Without these nothing else can be examined."""
WIDE = 125
"""Columns of a terminal that has room for what a check says."""


class Refuted(ValueError):
    """A claim does not hold."""

    def __init__(self, name: str, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        broken = _grouped((f"{f.pattern}", f.check) for f in self.findings)
        where = "; ".join(f"{pattern}: {', '.join(checks)}" for pattern, checks in broken.items())
        super().__init__(f"{name} is refuted ({where})")


def measure(run: Run) -> None:
    """Examine the claimed patterns, or the one asked for, and print what was found.

    Raises:
        UnsupportedPattern: If no pattern asked for is claimed.
        ValueError: If none is claimed.
        Refuted: If a claim does not hold.
    """
    config = run.config
    cls = mechanism(config.attention._target_)
    patterns = list(Pattern) if config.pattern in (None, "all") else [Pattern(config.pattern)]
    if not cls.patterns:
        raise ValueError(f"{cls.__name__} claims no pattern: name them in its `patterns`")
    run.labels |= {"device": config.device, "dtype": config.dtype}
    subject = Subject(
        factory(config.attention),
        Pattern.CAUSAL_SELF,
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        lengths=tuple(config.lengths),
        long_len=config.long_len,
        max_len=config.max_len,
        dtype=_dtype(config.dtype),
        device=config.device,
        seed=config.seed,
    )
    subjects = [dataclasses.replace(subject, pattern=pattern) for pattern in patterns]
    findings: list[Finding] = []
    with _display(run) as display:
        for subject in subjects:
            findings += examine(cls, subject, partial(display, subject.pattern))
    if all(f.passed and f.check == NOT_CLAIMED.name for f in findings):
        raise cast(UnsupportedPattern, subjects[0].refusal)
    for f in findings:
        value = f.worst if f.worst is not None and math.isfinite(f.worst) else None
        comment = f.message if f.passed else f"{'failed' if f.refutes else 'warning'}: {f.message}"
        run.add(f"verify/{f.pattern}/{f.check}", value, comment=comment)
    show(cls, findings, Console(), config.device)
    broken = [f for f in findings if not f.passed and f.refutes]
    if broken:
        raise Refuted(cls.__name__, broken)


@contextmanager
def _display(run: Run) -> Iterator[Callable[[Pattern, int, int, str], None]]:
    """Shows on a terminal which check is under way; a sweep has a display of its own."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    is_hidden = not console.is_terminal or run.config.run.get("progress") is not None
    with Progress(*columns, console=console, transient=True, disable=is_hidden) as bar:
        task = bar.add_task("")

        def tell(pattern: Pattern, number: int, total: int, check: str) -> None:
            bar.update(task, description=f"{pattern} {check}", completed=number, total=total)

        yield tell


def examine(
    cls: type[Attention],
    subject: Subject,
    tell: Callable[[int, int, str], None] = lambda number, total, check: None,
) -> list[Finding]:
    """All findings about a claimed pattern; of another, whether it is refused.

    A claim of the class that the constructor refuses with `UnsupportedPattern` is none.

    Args:
        tell: Is told before each check its number, of how many, and its name.
    """
    with torch.random.fork_rng([] if subject.device == "cpu" else [subject.device]):
        refusal = _found(NOT_CLAIMED, subject)
        if refusal.passed or subject.pattern not in cls.patterns:
            return [refusal]
        findings: list[Finding] = []
        checks = [check for check in CHECKS if check.applies(cls, subject.pattern)]
        for number, check in enumerate(checks):
            tell(number, len(checks), check.name)
            findings.append(_found(check, subject))
            failed = not findings[-1].passed
            if failed and check.name in NEEDED:
                rest = ", ".join(c.name for c in checks[number + 1 :])
                unexamined = (*findings[-1].unexamined, f"{rest}: each needs {check.name}")
                findings[-1] = dataclasses.replace(findings[-1], unexamined=unexamined)
                break
            if failed and check.name == "batch":
                subject = subject.apart()
        return findings


def show(
    cls: type[Attention], findings: list[Finding], console: Console, device: str = "cpu"
) -> None:
    """Print the table, what failed, what is remarkable, what was not examined, and the verdict."""
    refusals = [f for f in findings if f.check == NOT_CLAIMED.name]
    claimed = list(dict.fromkeys(f.pattern for f in findings if f not in refusals))
    if claimed:
        console.print(_table(findings, claimed, console.width))
    broken = [f for f in findings if not f.passed and f.refutes]
    first = list({f.pattern: f for f in reversed(broken)}.values())[::-1]
    others = [f for f in broken if f not in first]
    warnings = [f for f in findings if not f.passed and not f.refutes]
    remarks = [f for f in findings if f.passed and f.message and f not in refusals]
    for title, style, chosen in (
        ("refuted", "bold red", first),
        ("also", "red", others),
        ("warning", "yellow", warnings),
        ("remark", "dim", remarks),
    ):
        told = _grouped((f.message, (f.pattern, f.check)) for f in chosen)
        for message, places in told.items():
            by_pattern = _grouped((str(p), check) for p, check in places)
            where = "; ".join(f"{p} {', '.join(checks)}" for p, checks in by_pattern.items())
            console.print(Text.assemble((f"{title} ", style), (f"{where}: ", "bold"), message))
    for refusal in refusals:
        if refusal.passed:
            console.print(Text(f"not claimed: {refusal.message}", style="dim"))
    for place, what in _unexamined(cls, findings, claimed, device):
        console.print(Text(f"not examined: {place}{what}", style="dim"))
    verdict = ("holds in all that was examined", "green")
    if broken:
        verdict = ("is refuted", "bold red")
    if others:
        causes = ", ".join(dict.fromkeys(f.check for f in first))
        console.print(f"mend first: {causes}. What also failed may follow from it.")
    console.print(Text.assemble(f"{cls.__name__} ", verdict))


def _unexamined(
    cls: type[Attention], findings: list[Finding], claimed: list[Pattern], device: str
) -> list[tuple[str, str]]:
    """What nothing above speaks for, with the patterns in which that is so."""
    gaps = [(what, str(f.pattern)) for f in findings for what in f.unexamined]
    missing = [f for f in findings if f.message.startswith("missing")]
    gaps += [("decoding, which it does not have", str(f.pattern)) for f in missing]
    told = [
        (f"{', '.join(dict.fromkeys(patterns))}: ", what)
        for what, patterns in _grouped(gaps).items()
    ]
    not_asked = [p for p in Pattern if p in cls.patterns and p not in {f.pattern for f in findings}]
    if not_asked:
        told.append(("", f"{', '.join(not_asked)}, which it claims too"))
    if claimed:
        told.append(("", f"other devices than {device}, and inputs with a 2-D grid"))
    return told


def _found(check: Check, subject: Subject) -> Finding:
    """What a check finds in evaluation and then, until it fails, in the other modes."""
    finding = _found_in(check, subject, lambda subject: subject)
    for mode in check.also:
        if not finding.passed:
            break
        other = _found_in(check, subject, mode)
        if not other.passed:
            return other
        unexamined = finding.unexamined + other.unexamined
        finding = dataclasses.replace(finding, unexamined=unexamined)
    return finding


def _found_in(check: Check, subject: Subject, mode: Callable[[Subject], Subject | None]) -> Finding:
    failed = Finding(subject.pattern, check.name, False)
    try:
        changed = mode(subject)
        if changed is None:
            return dataclasses.replace(failed, passed=True)
        subject = changed
        with numbers.unless_not_implemented(subject.mode.name):
            return check.examine(subject)
    except Unexamined as reason:
        return dataclasses.replace(failed, passed=True, unexamined=(str(reason),))
    except Exception as error:  # whatever a mechanism raises is its own failure, and named
        if status_of(error) in (Status.OOM, Status.TIMEOUT, Status.UNAVAILABLE):
            raise  # the machine's failure
        if check.is_decoding and isinstance(error, NotImplementedError):
            message = f"missing: {error}; tasks that generate cannot use it"
            return dataclasses.replace(failed, message=message, refutes=False)
        return dataclasses.replace(failed, message=subject.told(_told(error)))


def _told(error: Exception) -> str:
    """The exception, and the line of the mechanism that it came from."""
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename] or list(frames)
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    text = " ".join(
        [*(f"{note}:" for note in getattr(error, "__notes__", ())), *str(error).split()]
    )
    return f"an exception inside the mechanism: {type(error).__name__}: {text} (at {place})"


def _table(findings: list[Finding], patterns: list[Pattern], width: int) -> Table:
    """A row for each check, a column for each pattern; what a check says, if there is room."""
    cells = {(f.check, f.pattern): _cell(f) for f in findings}
    table = Table(title="worst error, as a share of the output's size", title_justify="left")
    table.add_column("check", no_wrap=True)
    for pattern in patterns:
        table.add_column(pattern.value.replace("_", "\n"), no_wrap=True)
    if width >= WIDE:
        table.add_column("holds if")
    for check in CHECKS:
        row = [cells.get((check.name, pattern), Text()) for pattern in patterns]
        if any(row):
            table.add_row(check.name, *row, *([check.says] if width >= WIDE else []))
    return table


def _cell(finding: Finding) -> Text:
    worst = finding.worst
    figure = "" if worst is None or (finding.passed and worst == 0) else f" {worst:.1g}"
    if finding.check == "state_growth" and finding.passed:
        return Text("constant" if worst == 1 else f"grows x{worst:.2g}", style="green")
    if finding.check == "parameters" and worst is not None:
        figure = f" {worst:+.1%}"
    word, style = ("ok", "green") if finding.passed else ("warning", "yellow")
    if not finding.passed and finding.refutes:
        word, style = "FAILED", "bold red"
    return Text(word + figure, style=style)


def _grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _dtype(name: str) -> torch.dtype:
    known = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}
    if name not in known:
        raise ValueError(f"dtype must be one of {', '.join(known)}, got {name!r}")
    return known[name]
