"""Padding is invisible: what stands there, how much of it, and whose mask it is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runners.checks.subject import (
    APPENDED,
    FAR,
    LONGER,
    Finding,
    Inputs,
    Subject,
    Worst,
    by_how_much,
)

FEW = (1, 4, 6, 9)
"""Of the ten kinds of padding a tail, a head, holes, and none."""
LOUD = 10.0
"""Padded positions hold larger numbers than the rest, so that a maximum would notice them."""


def padding_content(subject: Subject) -> Finding:
    """Put other numbers where the padding is, wherever it is: no valid output may change."""
    worst = Worst()
    lengths = [length for length in subject.lengths if length > 2] or [subject.length]
    for length in (*lengths, subject.long_len):
        for context_len in subject.context_lens(length):
            inputs = padded_inputs(subject, length, context_len)
            padded = {"query": inputs[subject.query_mask]}
            if subject.pattern.is_cross:
                padded["context"] = inputs["key_padding_mask"]
            expected = subject.run(inputs)
            for name, mask in padded.items():
                other = LOUD * subject.draw(*inputs[name].shape, stream=6)
                changed = torch.where(mask[..., None], other, inputs[name])
                out = subject.run(inputs | {name: changed})
                what = f"{name} (length {length}{_same(context_len)})"
                worst.update(subject.errors(out, expected, padded["query"]), what)

    def tell(worst: Worst) -> str:
        return (
            f"output {worst.position} {by_how_much(worst.error)} when other numbers stand in the "
            f"padding of the {worst.case}: padding is read, so a result depends on what a batch is "
            f"filled up with"
        )

    return subject.judge("padding_content", worst, tell)


def padding_appended(subject: Subject) -> Finding:
    """Append padding, also none of it under a mask: the outputs before it may not change."""
    worst = Worst()
    masks = {"query": subject.query_mask, "context": "key_padding_mask"}
    for length in (*subject.lengths, subject.long_len):
        for context_len in subject.context_lens(length):
            inputs = subject.inputs(2, length, context_len=context_len)
            expected = subject.run(inputs)
            # Where a query grows by LONGER, it becomes as long as a context of another length.
            for extra in (0, 1, LONGER, APPENDED) if length < subject.long_len else (APPENDED,):
                for name in inputs:
                    longer, mask = _appended(subject, inputs[name], extra)
                    out = subject.run(inputs | {name: longer, masks[name]: mask})
                    case = (extra, f"{name} of length {length}{_same(context_len)}")
                    worst.update(subject.errors(out[:, :length], expected), case)

    def tell(worst: Worst) -> str:
        extra, what = worst.case
        if not extra:
            return (
                f"output {worst.position} {by_how_much(worst.error)} when a mask without any "
                f"padding is given for a {what}: the masked path computes something else"
            )
        return (
            f"output {worst.position} {by_how_much(worst.error)} when padding of length "
            f"{extra} is appended to a {what}: a sample's result depends on the longest of its "
            f"batch"
        )

    return subject.judge("padding_appended", worst, tell)


def padded_inputs(subject: Subject, length: int, context_len: int | None = None) -> Inputs:
    """Ten samples with as many kinds of padding, four of them from FAR on; of both sequences."""
    inputs = subject.inputs(10, length, context_len=context_len)
    inputs[subject.query_mask] = padding_masks(subject, length)
    if subject.pattern.is_cross:
        inputs["key_padding_mask"] = padding_masks(subject, inputs["context"].shape[1]).flip(0)
    return inputs if length < FAR else samples(inputs, FEW)


def samples(inputs: Inputs, numbers: Sequence[int]) -> Inputs:
    """Some of the samples."""
    return {name: tensor[list(numbers)] for name, tensor in inputs.items()}


def padding_masks(subject: Subject, length: int) -> Tensor:
    """Masks (10, length): tails, heads and holes of several sizes, and none; all leave something.

    Rows differ, so that a mask that lands on another sample or head is noticed.
    """
    place = torch.arange(length, device=subject.device)
    sizes = (1, length // 3, length - 1)
    tails = [place >= length - size for size in sizes]
    heads = [place < size for size in sizes]
    holes = [subject.draw(length, stream=10 + row) > row for row in range(3)]
    masks = torch.stack([*tails, *heads, *holes, place < 0])
    masks[masks.all(dim=1), length // 2] = False
    return masks


def _appended(subject: Subject, sequence: Tensor, extra: int) -> tuple[Tensor, Tensor]:
    """The sequence with `extra` loud positions after it, and the mask that hides them."""
    batch_size, length, embed_dim = sequence.shape
    padding = LOUD * subject.draw(batch_size, extra, embed_dim, stream=7)
    mask = torch.arange(length + extra, device=sequence.device) >= length
    return torch.cat([sequence, padding], dim=1), mask.expand(batch_size, -1)


def _same(context_len: int | None) -> str:
    return "" if context_len is None else ", as long as the other sequence"
