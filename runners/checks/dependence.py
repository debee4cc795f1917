"""What the output must depend on: its own query, its neighbours, the source.

Without these a module of zeros would pass every other check, as it passes CAB's.
"""

from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor

from runners.checks.subject import FAR, Finding, Mode, Subject, Worst, by_how_much

TRIED = 24
"""Outputs tried at each length, half of them from FAR on."""
SHORT = 32
"""From this length on an output must depend on its own query: of a few keys one core may be left,
which all queries read alike."""
DEPENDS = 1e-4
"""An output depends on what moves it by this share of its size; an honest weight is near 1/32."""

Chosen = Callable[[Tensor, Tensor], Tensor]
"""Says of positions (P, 1) and places (1, L) which places are to be replaced: (P, L)."""


def uses_own(subject: Subject) -> Finding:
    """Replace one query: the output there must change, unless it is among the few that count less.

    The longer the sequence, the more queries ProbSparse answers with a mean.
    """
    return _verdict(
        subject,
        "uses_own",
        [(n, None, "query", torch.eq, "their own query") for n in _short_lengths(subject)],
        "the query is not read",
        too_many=0.9,
    )


def uses_earlier(subject: Subject) -> Finding:
    """Replace everything before a position of a self pattern: the output there must change."""
    return _verdict(
        subject,
        "uses_earlier",
        [(n, None, "query", torch.gt, "earlier positions") for n in _long_lengths(subject)],
        "the past is not read",
    )


def uses_later(subject: Subject) -> Finding:
    """Replace everything after a position in noncausal self: the output there must change."""
    return _verdict(
        subject,
        "uses_later",
        [(n, None, "query", torch.lt, "later positions") for n in _long_lengths(subject)],
        "this is a causal mechanism",
    )


def uses_source(subject: Subject) -> Finding:
    """Replace the source, or what of it comes after a position: the output there must change.

    What comes before may be forgotten where the source is read in order.
    """
    cases: list[Case] = [
        (length, context_len, "context", _all, "the source")
        for length in _lengths(subject)
        for context_len in subject.context_lens(length)
    ]
    for length in _long_lengths(subject):
        what = "the source's later positions, where it is as long as the query"
        cases.append((length, length, "context", torch.lt, what))
    return _verdict(subject, "uses_source", cases, "it is not read")


def mixes_nothing(subject: Subject) -> Finding:
    """Of a control that declares `mixes = False`: nothing but its own query moves an output."""
    worst = Worst()
    cases: list[tuple[str, Chosen, str]] = [("query", torch.ne, "the other queries")]
    if subject.pattern.is_cross:
        cases.append(("context", _all, "the source"))
    for length in _long_lengths(subject):
        for context_len in subject.context_lens(length):
            for name, chosen, what in cases:
                found, positions = _moved(subject, length, context_len, name, chosen)
                worst.update(found[None], (positions, what))

    def tell(worst: Worst) -> str:
        positions, what = worst.case
        return (
            f"output {positions[worst.position or 0]} {by_how_much(worst.error)} with {what}, "
            f"though mixes = False declares that nothing moves between positions"
        )

    return subject.judge("mixes_nothing", worst, tell)


Case = tuple[int, int | None, str, Chosen, str]
"""Lengths of query and context, the argument that is replaced, where, and what that is called."""


def _all(positions: Tensor, places: Tensor) -> Tensor:
    return (positions >= 0) & (places >= 0)


def _lengths(subject: Subject) -> list[int]:
    longest = [subject.long_len] if subject.mode == Mode() else []
    return [n for n in (*subject.lengths, *longest) if n >= min(SHORT, subject.length)]


def _short_lengths(subject: Subject) -> list[int]:
    lengths = _lengths(subject)
    return [length for length in lengths if length < FAR] or lengths[:1]


def _long_lengths(subject: Subject) -> list[int]:
    """Where a mechanism with gaps sees something: a dilated window does not at SHORT."""
    return _lengths(subject)[-2:]


def _spread(subject: Subject, length: int, number: int) -> list[int]:
    """The first position, and in each of so many equal parts one at random."""
    width = max(1, length // number)
    drawn = zip(range(0, length, width), cycle(subject.places(width + 1, width)), strict=False)
    return sorted({0} | {start + offset - 1 for start, offset in drawn if start + offset <= length})


def _moved(
    subject: Subject, length: int, context_len: int | None, name: str, chosen: Chosen
) -> tuple[Tensor, list[int]]:
    """By how much outputs move when what is chosen for each is replaced, and their positions."""
    positions = _spread(subject, length, TRIED if length < FAR else TRIED // 2)
    inputs = subject.inputs(1, length, context_len=context_len)
    place = torch.arange(inputs[name].shape[1], device=subject.device)
    own = torch.tensor(positions, device=subject.device)
    is_chosen = chosen(own[:, None], place[None])
    tried = is_chosen.any(dim=1).tolist()  # the first position has no earlier one
    if is_chosen.all():
        is_chosen = is_chosen[:1]  # one call is enough
    other = subject.draw(*inputs[name].shape, stream=4)
    changed = torch.where(is_chosen[..., None], other, inputs[name])
    if subject.is_drawing:
        subject = subject.apart()  # so that each meets the same draws
    found = subject.errors(subject.run(inputs | {name: changed}), subject.run(inputs))
    moved = found.expand(len(own), -1).take_along_dim(own[:, None], dim=1)[:, 0]
    return moved[tried], [p for p, is_tried in zip(positions, tried, strict=True) if is_tried]


def _verdict(
    subject: Subject, check: str, cases: list[Case], meaning: str, too_many: float = 0.5
) -> Finding:
    """Fails where so large a share of the outputs does not move.

    A sparse mechanism may leave some out: ProbSparse its lazy queries, a block its last token.
    """
    remark = Finding(subject.pattern, check, True)
    for length, context_len, name, chosen, what in cases:
        found, positions = _moved(subject, length, context_len, name, chosen)
        is_dead = (~(found > DEPENDS)).tolist()  # not a number is no dependence
        dead = [p for p, is_so in zip(positions, is_dead, strict=True) if is_so]
        if not dead:
            continue
        passed = len(dead) < too_many * len(positions)
        message = (
            f"{len(dead)} of {len(positions)} outputs tried at length {length} do not depend on "
            f"{what}, the first at position {dead[0]}"
        )
        if not passed:
            message = subject.told(f"{message}: {meaning}")
            return Finding(subject.pattern, check, False, position=dead[0], message=message)
        if not remark.message:
            remark = Finding(subject.pattern, check, True, position=dead[0], message=message)
    return remark
