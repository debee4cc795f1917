"""Padding is invisible: what stands there, how much of it, and whose mask it is."""

import torch
from torch import Tensor

from runners.checks.subject import Finding, Inputs, Subject, Worst, by_how_much, errors

LOUD = 10.0
"""Padded positions hold larger numbers than the rest, so that a maximum would notice them."""


def padding_content(subject: Subject) -> Finding:
    """Put other numbers where the padding is, wherever it is: no valid output may change."""
    worst = Worst()
    for length in (3, 17, 65, 130):
        inputs = padded_inputs(subject, length)
        padded = {"query": inputs[subject.query_mask]}
        if subject.pattern.is_cross:
            padded["context"] = inputs["key_padding_mask"]
        expected = subject.run(inputs)
        for name, mask in padded.items():
            other = LOUD * subject.draw(*inputs[name].shape, stream=6)
            changed = torch.where(mask[..., None], other, inputs[name])
            found = errors(subject.run(inputs | {name: changed}), expected)
            worst.update(found.masked_fill(padded["query"], 0.0), (length, name))

    def tell(worst: Worst) -> str:
        length, what = worst.case
        return (
            f"output {worst.position} {by_how_much(worst.error)} when other numbers stand in the "
            f"padding of the {what} (length {length}): padding is read, so a result depends on "
            f"what a batch is filled up with"
        )

    return subject.judge("padding_content", worst, tell)


def padding_appended(subject: Subject) -> Finding:
    """Append padding, also none of it under a mask: the outputs before it may not change."""
    worst = Worst()
    for length in (1, 16, 17, 63, 64, 65, 130):
        inputs = subject.inputs(2, length)
        expected = subject.run(inputs)
        masks = {"query": subject.query_mask, "context": "key_padding_mask"}
        for extra in (0, 1, 15, 70):
            for name in inputs:
                longer, mask = _appended(subject, inputs[name], extra)
                out = subject.run(inputs | {name: longer, masks[name]: mask})
                worst.update(errors(out[:, :length], expected), (length, extra, name))

    def tell(worst: Worst) -> str:
        length, extra, what = worst.case
        if not extra:
            return (
                f"output {worst.position} {by_how_much(worst.error)} when a mask without any "
                f"padding is given (length {length}): the masked path computes something else"
            )
        return (
            f"output {worst.position} {by_how_much(worst.error)} when padding of length "
            f"{extra} is appended to a {what} of length {length}: a sample's result depends on the "
            f"longest of its batch"
        )

    return subject.judge("padding_appended", worst, tell)


def padded_inputs(subject: Subject, length: int) -> Inputs:
    """Ten samples with as many kinds of padding; in the cross patterns on both sequences."""
    inputs = subject.inputs(10, length)
    inputs[subject.query_mask] = _masks(subject, length)
    if subject.pattern.is_cross:
        inputs["key_padding_mask"] = _masks(subject, inputs["context"].shape[1]).flip(0)
    return inputs


def _masks(subject: Subject, length: int) -> Tensor:
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
