"""The same inputs and weights give the same outputs: again, in another instance, in any batch."""

import torch
from torch import Tensor

from runners.checks.padding import padded_inputs
from runners.checks.subject import Finding, Subject, Worst, by_how_much, errors, rows

LENGTH = 65
BATCH_SIZE = 4


def determinism(subject: Subject) -> Finding:
    """Call twice in evaluation, with another call between and the global generator moved on.

    In training the draws may differ from call to call; but under one seed an instance and its
    copy, made from its state_dict, must draw the same, or a resumed run is another run.
    """
    worst = Worst()
    inputs = subject.inputs(2, LENGTH)
    first = subject.run(inputs)
    subject.run(subject.inputs(3, LENGTH // 2, stream=1))
    torch.manual_seed(subject.seed + 1)
    worst.update(errors(subject.run(inputs), first), "in a second call in evaluation")

    original, copy = (subject.build(dropout=subject.dropout).train() for _ in range(2))
    subject.run(inputs, original)
    copy.load_state_dict(original.state_dict())
    outputs = []
    for attention in (original, copy):
        torch.manual_seed(subject.seed)
        outputs.append(subject.run(inputs, attention))
    worst.update(errors(*outputs), "in training, resumed from a checkpoint under the same seed")

    def tell(worst: Worst) -> str:
        return (
            f"output {worst.position} {by_how_much(worst.error)} {worst.case}: it draws at random "
            f"or keeps something from call to call, so that no result can be repeated"
        )

    return subject.judge("determinism", worst, tell)


def seeding(subject: Subject) -> Finding:
    """Build twice under one seed: the outputs must agree."""
    worst = Worst()
    inputs = subject.inputs(2, LENGTH)
    other = subject.run(inputs, subject.build())
    worst.update(errors(other, subject.run(inputs)))

    def tell(worst: Worst) -> str:
        return (
            f"output {worst.position} {by_how_much(worst.error)} between two instances built under "
            f"the same seed: its starting values do not come from torch's generator"
        )

    return subject.judge("seeding", worst, tell)


def state_dict(subject: Subject) -> Finding:
    """Load the weights into an instance built under another seed: the outputs must agree."""
    worst = Worst()
    inputs = subject.inputs(2, LENGTH)
    other = subject.build(seed=subject.seed + 1)
    other.load_state_dict(subject.attention.state_dict())
    worst.update(errors(subject.run(inputs, other), subject.run(inputs)))

    def tell(worst: Worst) -> str:
        return (
            f"output {worst.position} {by_how_much(worst.error)} after its state_dict is loaded "
            f"into another instance: something it computes with is not saved, so a checkpoint is "
            f"not the model that was trained"
        )

    return subject.judge("state_dict", worst, tell)


def batch(subject: Subject) -> Finding:
    """A sample must come out the same alone and beside any others, with padding and without."""
    worst = Worst()
    for length in (1, 17, LENGTH):
        padded = rows(padded_inputs(subject, length), slice(0, None, 3))
        whole = {name: t for name, t in padded.items() if not name.endswith("mask")}
        for inputs, case in ((whole, ""), (padded, ", with padding")):
            together = subject.run(inputs)
            ignored = inputs.get(subject.query_mask, torch.zeros_like(together[..., 0]).bool())
            for row in range(len(together)):
                own = slice(row, row + 1)
                mixed = {name: _neighbours_replaced(t, row) for name, t in inputs.items()}
                for out, event in (
                    (subject.run(rows(inputs, own)), "is computed alone"),
                    (subject.run(mixed)[own], "has other neighbours"),
                ):
                    found = errors(out, together[own]).masked_fill(ignored[own], 0.0)
                    worst.update(found, (row, event, case))

    def tell(worst: Worst) -> str:
        row, event, case = worst.case
        return (
            f"output {worst.position} of sample {row} {by_how_much(worst.error)} when the sample "
            f"{event}{case}: samples of a batch, or their masks, mix, so a result depends on who "
            f"else is in the batch"
        )

    return subject.judge("batch", worst, tell)


def _neighbours_replaced(samples: Tensor, row: int) -> Tensor:
    """Every sample but one in the place of its neighbour."""
    mixed = samples.roll(1, dims=0)
    mixed[row] = samples[row]
    return mixed
