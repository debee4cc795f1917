"""The same inputs and weights give the same outputs: again, in another instance, in any batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from attentions.base import Attention
from runners.checks.padding import FEW, padded_inputs, samples
from runners.checks.subject import FAR, Finding, Inputs, Mode, Subject, Worst, by_how_much, rows

SHORT = 64
"""From this length on one sample is compared, not all."""


def determinism(subject: Subject) -> Finding:
    """Call twice in evaluation, with another call between and the global generator moved on.

    In training the draws may differ from call to call; but under one seed an instance and its
    copy, made from its state_dict, must draw the same, or a resumed run is another run.
    """
    worst = Worst()
    inputs = subject.inputs(2, subject.length)
    first = subject.run(inputs)
    subject.run(subject.inputs(3, max(1, subject.length // 2), stream=1))
    torch.manual_seed(subject.seed + 1)
    worst.update(subject.errors(subject.run(inputs), first), "in a second call in evaluation")

    original, copy = (subject.build(dropout=subject.dropout).train() for _ in range(2))
    _called(subject, original, inputs)
    copy.load_state_dict(original.state_dict())
    outputs = [subject.run(inputs, attention) for attention in (original, copy)]
    found = subject.errors(*outputs)
    worst.update(found, "in training, resumed from a checkpoint under the same seed")

    def tell(worst: Worst) -> str:
        return (
            f"output {worst.position} {by_how_much(worst.error)} {worst.case}: it draws at random "
            f"or keeps something from call to call, so that no result can be repeated"
        )

    return subject.judge("determinism", worst, tell)


def generator(subject: Subject) -> Finding:
    """Whatever the global generator was seeded with, it must not be lost in the module."""
    inputs = subject.inputs(2, subject.length)
    evaluated, trained = subject.attention, subject.build(dropout=subject.dropout).train()
    events: dict[str, Callable[[int], object]] = {
        "the constructor": lambda seed: subject.build(seed=seed, shake=0.0),
        "a call in evaluation": lambda seed: _called(subject, evaluated, inputs),
        "a call in training": lambda seed: _called(subject, trained, inputs),
    }
    for event, happen in events.items():
        after = []
        for seed in (subject.seed, subject.seed + 1):
            torch.manual_seed(seed)
            happen(seed)
            after.append(torch.rand(8, device=subject.device))
        if torch.equal(*after):
            message = (
                f"{event} seeds the global generator anew: whatever is drawn after it, dropout and "
                f"the weights of other layers, is the same each time"
            )
            return Finding(subject.pattern, "generator", False, message=message)
    return Finding(subject.pattern, "generator", True)


def seeding(subject: Subject) -> Finding:
    """Build twice under one seed: the outputs must agree."""
    worst = Worst()
    inputs = subject.inputs(2, subject.length)
    other = subject.run(inputs, subject.build())
    worst.update(subject.errors(other, subject.run(inputs)))

    def tell(worst: Worst) -> str:
        return (
            f"output {worst.position} {by_how_much(worst.error)} between two instances built under "
            f"the same seed: its starting values do not come from torch's generator"
        )

    return subject.judge("seeding", worst, tell)


def state_dict(subject: Subject) -> Finding:
    """Load the weights into an instance built under another seed: the outputs must agree.

    Also into one that was called before: what it made of its weights then must not stay.
    """
    worst = Worst()
    inputs = subject.inputs(2, subject.length)
    expected = subject.run(inputs)
    unsaved = (
        "something it computes with is not saved, so a checkpoint is not the model that was trained"
    )
    kept = "what was made of its weights at an earlier call stays, so that training changes nothing"
    for is_used, meaning in ((False, unsaved), (True, kept)):
        other = subject.build(seed=subject.seed + 1)
        if is_used:
            subject.run(inputs, other)
            subject.run(inputs, other.train())
            other.eval()
        other.load_state_dict(subject.attention.state_dict())
        worst.update(subject.errors(subject.run(inputs, other), expected), meaning)
        if worst.error > subject.tolerance:
            break

    def tell(worst: Worst) -> str:
        return (
            f"output {worst.position} {by_how_much(worst.error)} after its state_dict is loaded "
            f"into another instance: {worst.case}"
        )

    return subject.judge("state_dict", worst, tell)


def batch(subject: Subject) -> Finding:
    """A sample must come out the same alone and beside any others, with padding and without."""
    worst = Worst()
    longest = [subject.long_len] if subject.mode == Mode() else []
    for length in (*subject.lengths, *longest):
        for context_len in subject.context_lens(length):
            padded = padded_inputs(subject, length, context_len)
            padded = padded if length >= FAR else samples(padded, FEW)
            whole = {name: t for name, t in padded.items() if not name.endswith("mask")}
            numbers = (0, 1, 2, 3) if length < SHORT else (2,)
            cases = [(whole, "")]
            if not subject.is_drawing:  # how much is drawn may depend on the others' padding
                cases.append((padded, ", with padding"))
            for inputs, case in cases:
                together = subject.run(inputs)
                ignored = inputs.get(subject.query_mask)
                for row in numbers:
                    own = slice(row, row + 1)
                    for out, event in _elsewhere(subject, inputs, row):
                        hidden = None if ignored is None else ignored[own]
                        found = subject.errors(out, together[own], hidden)
                        worst.update(found, (row, event, case))

    def tell(worst: Worst) -> str:
        row, event, case = worst.case
        return (
            f"output {worst.position} of sample {row} {by_how_much(worst.error)} when the sample "
            f"{event}{case}: samples of a batch, or their masks, mix, so a result depends on who "
            f"else is in the batch"
        )

    return subject.judge("batch", worst, tell)


def _elsewhere(subject: Subject, inputs: Inputs, row: int) -> list[tuple[Tensor, str]]:
    """The output of one sample beside others, and alone."""
    own = slice(row, row + 1)
    mixed = {name: _neighbours_replaced(t, row) for name, t in inputs.items()}
    found = [(subject.run(mixed)[own], "has other neighbours")]
    if not subject.is_drawing:  # what is drawn depends on the batch's size
        found.append((subject.run(rows(inputs, own)), "is computed alone"))
    return found


def _neighbours_replaced(samples: Tensor, row: int) -> Tensor:
    """Every sample but one in the place of its neighbour."""
    mixed = samples.roll(1, dims=0)
    mixed[row] = samples[row]
    return mixed


@torch.no_grad()
def _called(subject: Subject, attention: Attention, inputs: Inputs) -> Tensor:
    """One call that draws on, and whose traces stay, unlike one of `Subject.run`."""
    return subject.call(attention, {name: t.clone() for name, t in inputs.items()})
