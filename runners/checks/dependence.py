"""What the output must depend on: its own query, its neighbours, the source.

Without these a module of zeros would pass every other check, as it passes CAB's.
"""

import torch
from torch import Tensor

from runners.checks.subject import Finding, Subject, Worst, by_how_much, errors

LENGTH = 32
DEPENDS = 1e-4
"""An output depends on what moves it by this share of its size; an honest weight is near 1/32."""


def uses_own(subject: Subject) -> Finding:
    """Replace one query: the output there must change."""
    return _must_change(
        subject,
        "uses_own",
        torch.eye(LENGTH, dtype=torch.bool),
        "their own query",
        "the query is not read",
    )


def uses_earlier(subject: Subject) -> Finding:
    """Replace everything before a position of a self pattern: the output there must change."""
    earlier = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(-1)
    return _must_change(
        subject, "uses_earlier", earlier, "earlier positions", "the past is not read"
    )


def uses_later(subject: Subject) -> Finding:
    """Replace everything after a position in noncausal self: the output there must change."""
    later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    return _must_change(
        subject, "uses_later", later, "later positions", "this is a causal mechanism"
    )


def uses_source(subject: Subject) -> Finding:
    """Replace the whole source of a cross pattern: every output must change."""
    return _verdict(subject, "uses_source", _source_errors(subject), "the source", "it is not read")


def mixes_nothing(subject: Subject) -> Finding:
    """Of a control that declares `mixes = False`: nothing but its own query moves an output."""
    others = ~torch.eye(LENGTH, dtype=torch.bool)
    worst = Worst()
    worst.update(_replaced_errors(subject, others)[None], "the other queries")
    if subject.pattern.is_cross:
        worst.update(_source_errors(subject)[None], "the source")

    def tell(worst: Worst) -> str:
        return (
            f"output {worst.position} {by_how_much(worst.error)} with {worst.case}, "
            f"though mixes = False declares that nothing moves between positions"
        )

    return subject.judge("mixes_nothing", worst, tell)


def _must_change(
    subject: Subject, check: str, replaced: Tensor, what: str, meaning: str
) -> Finding:
    """In row i of `replaced` (M, M), the positions that output i is tried against."""
    found = _replaced_errors(subject, replaced)
    is_tried = replaced.any(dim=1).to(found.device)  # the first position has no earlier one
    return _verdict(subject, check, found, what, meaning, is_tried)


def _replaced_errors(subject: Subject, replaced: Tensor) -> Tensor:
    """By how much output i moves when the queries of row i of `replaced` are others: (M,)."""
    inputs = subject.inputs(1, LENGTH)
    other = subject.draw(1, LENGTH, subject.embed_dim, stream=4)
    changed = torch.where(replaced.to(subject.device)[..., None], other, inputs["query"])
    return errors(subject.run(inputs | {"query": changed}), subject.run(inputs)).diagonal()


def _source_errors(subject: Subject) -> Tensor:
    inputs = subject.inputs(1, LENGTH)
    other = subject.draw(*inputs["context"].shape, stream=5)
    return errors(subject.run(inputs | {"context": other}), subject.run(inputs))[0]


def _verdict(
    subject: Subject,
    check: str,
    found: Tensor,
    what: str,
    meaning: str,
    is_tried: Tensor | None = None,
) -> Finding:
    """Fails where most outputs do not move.

    A sparse mechanism may leave some out: ProbSparse its lazy queries, a block its last token.
    """
    is_dead = ~(found > DEPENDS)  # not a number is no dependence
    if is_tried is not None:
        is_dead &= is_tried
    num_tried = LENGTH if is_tried is None else int(is_tried.sum())
    num_dead = int(is_dead.sum())
    if not num_dead:
        return Finding(subject.pattern, check, True)
    position = int(is_dead.int().argmax())
    passed = num_dead < num_tried / 2
    count = f"{num_dead} of {num_tried} outputs"
    message = f"{count} do not depend on {what}, the first at position {position}"
    if not passed:
        message += f": {meaning}"
    return Finding(subject.pattern, check, passed, position=position, message=message)
