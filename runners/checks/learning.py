"""What training needs: the function that is evaluated, gradients for all that learns, dropout."""

import dataclasses
from typing import cast

import torch
from torch import Tensor

from attentions.base import Attention
from runners.checks.numbers import empty_row, magnified
from runners.checks.padding import padded_inputs
from runners.checks.subject import Finding, Inputs, Subject, Worst, by_how_much

ORDINARY = "ordinary inputs"
LARGE = 100.0
"""exp of it is infinite in float32. Of inputs ten times as large torch's own backward pass of the
softmax may be, where scores of products are as large as their rounding to several units."""


def training(subject: Subject) -> Finding:
    """In training it answers as in evaluation, but for what dropout drops, or its class says why.

    So whatever holds of inputs of several lengths in evaluation holds in training too.
    """
    if why := subject.attention.trains_otherwise:
        unexamined = (f"whether training is right where it differs from evaluation: {why}",)
        return Finding(subject.pattern, "training", True, unexamined=unexamined)
    attention = subject.build(dropout=subject.barely)
    worst = Worst()
    for length in (*subject.lengths, subject.long_len):
        cases = [(subject.inputs(2, length, context_len=n)) for n in subject.context_lens(length)]
        if length == subject.length:
            cases.append(padded_inputs(subject, length))
        for inputs in cases:
            ignored = inputs.get(subject.query_mask)
            expected = subject.run(inputs, attention.eval())
            found = subject.errors(subject.run(inputs, attention.train()), expected, ignored)
            worst.update(found, (length, "" if ignored is None else ", with padding"))

    def tell(worst: Worst) -> str:
        length, padded = worst.case
        return (
            f"output {worst.position} {by_how_much(worst.error)} from evaluation to training, "
            f"though dropout drops nothing (length {length}{padded}): what is trained is not what "
            f"is tested; if it is meant, let the class say why in `trains_otherwise`"
        )

    return subject.judge("training", worst, tell)


def gradients(subject: Subject) -> Finding:
    """Every parameter and input gets a gradient: finite with padding, zeros and large inputs."""
    length = subject.length
    in_float32 = dataclasses.replace(subject, dtype=torch.float32)
    cases = {
        # The longest: what chooses among blocks learns nothing where there is one to choose.
        ORDINARY: (subject, 0.0, subject.inputs(2, subject.long_len)),
        "padded inputs": (subject, 0.0, padded_inputs(subject, length)),
        "padded inputs with dropout": (subject, subject.dropout, padded_inputs(subject, length)),
        "a wholly padded sample": (subject, 0.0, empty_row(subject, length)),
        "zeros": (subject, 0.0, magnified(subject.inputs(2, length), 0.0)),
        f"inputs of magnitude {LARGE:g} in float32": (
            in_float32,
            0.0,
            magnified(in_float32.inputs(2, length), LARGE),
        ),
    }
    for case, (asked, rate, inputs) in cases.items():
        attention = asked.build(dropout=rate).train()
        problem = _gradient_problem(asked, attention, inputs, learns=case == ORDINARY)
        if problem:
            message = f"for {case}, {problem}"
            return Finding(subject.pattern, "gradients", False, message=message)
    return Finding(subject.pattern, "gradients", True)


def _gradient_problem(
    subject: Subject, attention: Attention, inputs: Inputs, *, learns: bool
) -> str:
    """What is wrong with the gradients; with `learns`, one of zeros alone is wrong too."""
    named = attention.named_parameters()
    leaves: dict[str, Tensor] = {name: p for name, p in named if p.requires_grad}
    for name in ("query", "context"):
        if name in inputs:
            leaves[name] = inputs[name].requires_grad_()
    out = attention(**inputs)
    if not out.requires_grad:  # right for the control that removes the mixing
        return "no gradient passes the output" if attention.mixes or leaves.keys() - inputs else ""
    if subject.query_mask in inputs:  # the loss does not read outputs that mean nothing
        out = out[~inputs[subject.query_mask]]
    loss = (out * subject.draw(*out.shape, stream=8)).sum()
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    by_name = dict(zip(leaves, found, strict=True))
    if missing := [name for name, gradient in by_name.items() if gradient is None]:
        return f"no gradient reaches {', '.join(missing)}: it stays as it was initialised"
    there = cast(dict[str, Tensor], by_name)
    if bad := [name for name, gradient in there.items() if not gradient.isfinite().all()]:
        return f"the gradient of {', '.join(bad)} is infinite or not a number"
    if learns and (idle := [name for name, gradient in there.items() if not gradient.any()]):
        return f"the gradient of {', '.join(idle)} is exactly zero: it learns nothing"
    return ""


def dropout(subject: Subject) -> Finding:
    """Dropout acts in training, and only there; a mechanism may also refuse it."""
    if not subject.dropout:
        message = "dropout is refused: compare it with others that train without"
        return Finding(subject.pattern, "dropout", True, message=message)
    inputs = subject.inputs(2, subject.length)
    without = subject.run(inputs)
    attention = subject.build(dropout=subject.dropout)
    worst = Worst()
    worst.update(subject.errors(subject.run(inputs, attention), without))
    finding = subject.judge(
        "dropout",
        worst,
        lambda w: f"output {w.position} {by_how_much(w.error)} by dropout in evaluation",
    )
    if not finding.passed or not attention.mixes:
        return finding
    without, trained = (
        subject.run(inputs, module.train()) for module in (subject.build(), attention)
    )
    if subject.errors(trained, without).max() > subject.tolerance:
        return finding
    message = (
        "dropout is accepted and has no effect in training: the mechanism is regularised less "
        "than those it is compared with"
    )
    return Finding(subject.pattern, "dropout", False, message=message)
