"""No later query may reach an earlier output: by value, by length, by gradient.

At every position, but of the longest. CAB's test compares the second half of one length only.
"""

import math
from collections.abc import Sequence
from itertools import cycle

import torch
from torch import Tensor

from attentions.base import Pattern
from runners.checks.subject import Finding, Mode, Subject, Worst, by_how_much

MEANING = {
    Pattern.CAUSAL_SELF: "so the perplexity of a language model trained with it would be false",
    Pattern.CAUSAL_CROSS: "so a decoder trained with it would read what it has yet to generate",
}
LOUD = 10.0
"""Replaced queries are this many times larger, so that maxima and norms over queries move too."""
SHORT = 65
"""Beyond a chunk of 64. Up to this length every position is tried in every way."""


def leak_suffix(subject: Subject) -> Finding:
    """Replace the queries from any position on: no output before it may change."""
    worst, where = Worst(), ""
    for length in (*subject.lengths, subject.long_len):
        if length == subject.long_len and where:
            break  # where all positions were tried, it is clearer which of them leak
        cuts = _cuts(subject, length)
        for context_len, mask in _cases(subject, length) if cuts else ():
            found = _suffix_errors(subject, length, cuts, context_len, mask)  # (cuts, M)
            worst.update(found, (length, cuts, "" if mask is None else ", with padding"))
            is_over = (found.amax(dim=1) > subject.tolerance).tolist()
            if any(is_over) and (mask is None or not where):  # padding itself leaks nothing
                leaking = [c for c, over in zip(cuts, is_over, strict=True) if over]
                where = _where(leaking, cuts, length)

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
    for length, cuts in _few_lengths(subject).items():
        inputs = subject.inputs(2, length)
        whole = subject.run(inputs)
        for cut in cuts:
            out = subject.run(inputs | {"query": inputs["query"][:, :cut]})
            worst.update(subject.errors(out, whole[:, :cut]), (cut, length))

    def tell(worst: Worst) -> str:
        cut, length = worst.case
        return (
            f"output {worst.position} {by_how_much(worst.error)} when the sequence of {length} is "
            f"cut after {cut}: what follows is read, or a constant depends on the present length, "
            f"{MEANING[subject.pattern]}"
        )

    return subject.judge("leak_length", worst, tell)


def leak_gradient(subject: Subject) -> Finding:
    """Differentiate outputs by each query, in training mode: zero wherever it is later."""
    worst = Worst()
    subject = subject.dropping()
    attention = subject.attention
    for length, cuts in _few_lengths(subject).items():
        inputs = subject.inputs(1, length)
        query = inputs["query"].requires_grad_()
        torch.manual_seed(subject.seed)
        out = subject.call(attention, inputs)
        if not out.requires_grad:
            continue
        projected = (out[0] * subject.draw(*out.shape[1:], stream=1)).sum(dim=-1)  # (M,)
        for position in (cut - 1 for cut in cuts):
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
            f"output {position} has a gradient by the later query {later} (length {length}), "
            f"{worst.error:.2g} of its largest by any query: a later query leaks, "
            f"{MEANING[subject.pattern]}"
        )

    return subject.judge("leak_gradient", worst, tell)


def _cuts(subject: Subject, length: int) -> list[int]:
    """All positions at which a sequence can be cut; of the longest, and in training, a choice."""
    if length < subject.long_len and subject.mode == Mode():
        return list(range(1, length))
    beside = (0, 1, 63) if subject.mode == Mode() else (0,)
    return _borders(subject, length, beside)


def _borders(subject: Subject, length: int, beside: tuple[int, ...] = (0,)) -> list[int]:
    """Positions at, or also beside, multiples of 64, and one at random between each two."""
    borders = {c for c in range(1, length) if c % 64 in beside}
    drawn = zip(range(1, length, 64), cycle(subject.places(62, 61)), strict=False)
    between = {start + offset for start, offset in drawn}
    return sorted(c for c in borders | between if c < length)


def _few_lengths(subject: Subject) -> dict[int, list[int]]:
    """Lengths with cuts, where each costs a call: all of one beyond a chunk, a choice of longer."""
    beyond = [length for length in subject.lengths if length <= SHORT][-1:] or subject.lengths[:1]
    cuts = {length: list(range(1, length)) for length in beyond}
    far = {length: _borders(subject, length) for length in (subject.length, subject.long_len)}
    return far | cuts


def _cases(subject: Subject, length: int) -> list[tuple[int | None, Tensor | None]]:
    """Lengths of the context and masks (1, M) of the queries, of holes and a tail."""
    cases: list[tuple[int | None, Tensor | None]] = [
        (n, None) for n in subject.context_lens(length)
    ]
    if length > 2 and (length <= SHORT or length == subject.lengths[0]):
        mask = subject.draw(1, length, stream=2) > 1.0
        mask[:, -3:] = True
        mask[:, 0] = False
        cases.append((None, mask))
    return cases


def _suffix_errors(
    subject: Subject, length: int, cuts: list[int], context_len: int | None, mask: Tensor | None
) -> Tensor:
    """The errors (cuts, M) of the outputs before each cut, zero from it on."""
    inputs = subject.inputs(1, length, context_len=context_len)
    if mask is not None:
        inputs[subject.query_mask] = mask
    other = LOUD * subject.draw(1, length, subject.embed_dim, stream=3)
    place = torch.arange(length, device=subject.device)
    is_later = place >= torch.tensor(cuts, device=subject.device)[:, None]  # (cuts, M)
    changed = torch.where(is_later[..., None], other, inputs["query"])
    if subject.is_drawing:
        subject = subject.apart()  # so that each meets the same draws
    out = subject.run(inputs | {"query": changed})
    return subject.errors(out, subject.run(inputs), mask).masked_fill(is_later, 0.0)


def _where(leaking: Sequence[int], examined: Sequence[int], length: int) -> str:
    """What the leaking cuts have in common; it tells the author where to look."""
    if len(leaking) == len(examined):
        return "at every position" if len(examined) == length - 1 else "at every position tried"
    spared = sorted(set(examined) - set(leaking))
    block = math.gcd(*leaking)
    if block > 1 and len(leaking) > 1:
        return f"across a chunk border (only multiples of {block})"
    if len(examined) < length - 1:
        return f"at {len(leaking)} of {len(examined)} positions tried, the first {leaking[0]}"
    if len(leaking) == 1:
        return f"at position {leaking[0]} only"
    block = math.gcd(*spared)
    if block > 1 and len(spared) > 1:
        return f"inside a chunk (all but multiples of {block})"
    if leaking[-1] <= (examined[-1] + 1) // 2:
        return f"in the first half only (positions 1 to {leaking[-1]})"
    return f"at {len(leaking)} of {len(examined)} positions, the first {leaking[0]}"
