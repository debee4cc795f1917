"""No later query may reach an earlier output: by value, by length, by gradient.

Each at every position. CAB's test compares the second half of one length only.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attentions.base import Pattern
from runners.checks.subject import Finding, Subject, Worst, by_how_much, errors

MEANING = {
    Pattern.CAUSAL_SELF: "so the perplexity of a language model trained with it would be false",
    Pattern.CAUSAL_CROSS: "so a decoder trained with it would read what it has yet to generate",
}
LOUD = 10.0
"""Replaced queries are this many times larger, so that maxima and norms over queries move too."""


def leak_suffix(subject: Subject) -> Finding:
    """Replace the queries from any position on: no output before it may change."""
    worst, where = Worst(), ""
    for length in (*subject.lengths, subject.long_len):
        if length == subject.long_len and where:
            break  # where all positions were tried, it is clearer which of them leak
        cuts = _cuts(length, every=length < subject.long_len)
        for mask in _masks(subject, length) if cuts else ():
            found = _suffix_errors(subject, length, cuts, mask)  # (cuts, M)
            worst.update(found, (length, cuts, "" if mask is None else ", with padding"))
            is_over = (found.amax(dim=1) > subject.tolerance).tolist()
            if any(is_over):
                where = _where([c for c, over in zip(cuts, is_over, strict=True) if over], cuts)

    def tell(worst: Worst) -> str:
        length, cuts, padded = worst.case
        return (
            f"output {worst.position} {by_how_much(worst.error)} when the queries from "
            f"{cuts[worst.row]} on change (length {length}{padded}): a later query leaks {where}, "
            f"{MEANING[subject.pattern]}"
        )

    return subject.judge("leak_suffix", worst, tell)


def leak_length(subject: Subject) -> Finding:
    """Cut the sequence after any position: no output before the cut may change."""
    worst = Worst()
    for length in (max(subject.lengths), subject.long_len):
        inputs = subject.inputs(2, length)
        whole = subject.run(inputs)
        for cut in _cuts(length, every=length < subject.long_len):
            out = subject.run(inputs | {"query": inputs["query"][:, :cut]})
            worst.update(errors(out, whole[:, :cut]), (cut, length))

    def tell(worst: Worst) -> str:
        cut, length = worst.case
        return (
            f"output {worst.position} {by_how_much(worst.error)} when the sequence of {length} is "
            f"cut after {cut}: what follows is read, or a constant depends on the present length, "
            f"{MEANING[subject.pattern]}"
        )

    return subject.judge("leak_length", worst, tell)


def leak_gradient(subject: Subject) -> Finding:
    """Differentiate each output by each query, in training mode: zero wherever it is later."""
    worst = Worst()
    attention = subject.build().train()
    for length in (17, 130):
        inputs = subject.inputs(1, length)
        query = inputs["query"].requires_grad_()
        out = attention(**inputs)
        if not out.requires_grad:
            continue
        projected = (out[0] * subject.draw(*out.shape[1:], stream=1)).sum(dim=-1)  # (M,)
        for position in range(length):
            (gradient,) = torch.autograd.grad(
                projected[position], query, retain_graph=True, materialize_grads=True
            )
            sizes = gradient[0].abs().amax(dim=-1)  # by query
            later, all_queries = sizes[position + 1 :], sizes.max()
            share = torch.where(later == 0, 0.0, later / all_queries).nan_to_num(nan=torch.inf)
            worst.update(share[None], (length, position))

    def tell(worst: Worst) -> str:
        length, position = worst.case
        later = position + 1 + (worst.position or 0)
        return (
            f"in training, output {position} has a gradient by the later query {later} (length "
            f"{length}), {worst.error:.2g} of its largest by any query: a later query leaks, "
            f"{MEANING[subject.pattern]}"
        )

    return subject.judge("leak_gradient", worst, tell)


def _cuts(length: int, *, every: bool) -> list[int]:
    """All positions at which a sequence can be cut, or those at and beside multiples of 64."""
    if every:
        return list(range(1, length))
    return [c for c in range(1, length) if c % 64 in (0, 1, 63)]


def _masks(subject: Subject, length: int) -> list[Tensor | None]:
    """No padding, and at two lengths, one beyond a chunk, a mask (1, M) of holes and a tail."""
    if length not in (17, 65):
        return [None]
    mask = subject.draw(1, length, stream=2) > 1.0
    mask[:, -3:] = True
    mask[:, 0] = False
    return [None, mask]


def _suffix_errors(subject: Subject, length: int, cuts: list[int], mask: Tensor | None) -> Tensor:
    """The errors (cuts, M) of the outputs before each cut, zero from it on."""
    inputs = subject.inputs(1, length) | ({} if mask is None else {subject.query_mask: mask})
    other = LOUD * subject.draw(1, length, subject.embed_dim, stream=3)
    place = torch.arange(length, device=subject.device)
    is_later = place >= torch.tensor(cuts, device=subject.device)[:, None]  # (cuts, M)
    changed = torch.where(is_later[..., None], other, inputs["query"])
    found = errors(subject.run(inputs | {"query": changed}), subject.run(inputs))
    return found.masked_fill(is_later if mask is None else is_later | mask, 0.0)


def _where(leaking: Sequence[int], examined: Sequence[int]) -> str:
    """What the leaking cuts have in common; it tells the author where to look."""
    if len(leaking) == len(examined):
        return "at every position"
    spared = sorted(set(examined) - set(leaking))
    block = math.gcd(*leaking)
    if block > 1 and len(leaking) > 1:
        return f"across a chunk border (only multiples of {block})"
    if len(leaking) == 1:
        return f"at position {leaking[0]} only"
    block = math.gcd(*spared)
    if block > 1 and len(spared) > 1:
        return f"inside a chunk (all but multiples of {block})"
    if leaking[-1] <= (examined[-1] + 1) // 2:
        return f"in the first half only (positions 1 to {leaking[-1]})"
    return f"at {len(leaking)} of {len(examined)} positions, the first {leaking[0]}"
