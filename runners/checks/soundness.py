"""A module that trains: strict settings, gradients, finite numbers, dropout, a fair size."""

import dataclasses
import math
from typing import cast

import torch
from torch import Tensor, nn

from attentions.base import Attention
from attentions.softmax.softmax import SoftmaxAttention
from runners.checks.padding import padded_inputs
from runners.checks.subject import Finding, Inputs, Subject, Worst, by_how_much, errors

LENGTH = 65
MAGNITUDE = 1e3
FAIR_SHARE = 0.1
"""CAB admits a mechanism that adds at most 10 % to the parameters of its backbone."""
USUAL_SIZES = {"embed_dim": 512, "num_heads": 8}


def construction(subject: Subject) -> Finding:
    """Builds at the sizes of the examination, and answers with the query's shape."""
    subject.run(subject.inputs(2, LENGTH))
    return Finding(subject.pattern, "construction", True)


def settings(subject: Subject) -> Finding:
    """Refuses a setting that it does not have."""
    try:
        subject.build(no_such_setting=1)
    except (TypeError, ValueError):
        return Finding(subject.pattern, "settings", True)
    message = (
        "the constructor swallows a setting that it does not have: a misspelt one would silently "
        "leave the default"
    )
    return Finding(subject.pattern, "settings", False, message=message)


def refusal(subject: Subject) -> Finding:
    """A pattern that is not claimed must be refused as such."""
    message = "is not claimed, yet it builds: a pattern is either realised or refused"
    if subject.refusal:
        message = str(subject.refusal)
    return Finding(subject.pattern, "refusal", bool(subject.refusal), message=message)


def keeps_inputs(subject: Subject) -> Finding:
    """A call must leave its arguments as they were."""
    inputs = padded_inputs(subject, LENGTH)
    given = {name: tensor.clone() for name, tensor in inputs.items()}
    subject.run(given)
    changed = [name for name, tensor in inputs.items() if not torch.equal(tensor, given[name])]
    message = ""
    if changed:
        message = (
            f"a call overwrites its {' and '.join(changed)}: the residual connection around it "
            f"would add something else"
        )
    return Finding(subject.pattern, "keeps_inputs", not changed, message=message)


def gradients(subject: Subject) -> Finding:
    """Every parameter and input gets a gradient, finite with any padding and for zeros too."""
    attention = subject.build().train()
    cases = {
        "padded inputs": padded_inputs(subject, LENGTH),
        "a wholly padded sample": _empty_row(subject),
        "zeros": {n: torch.zeros_like(t) for n, t in subject.inputs(2, LENGTH).items()},
    }
    for case, inputs in cases.items():
        problem = _gradient_problem(subject, attention, inputs)
        if problem:
            message = f"for {case}, {problem}"
            return Finding(subject.pattern, "gradients", False, message=message)
    return Finding(subject.pattern, "gradients", True)


def _gradient_problem(subject: Subject, attention: Attention, inputs: Inputs) -> str:
    leaves: dict[str, Tensor] = dict(attention.named_parameters())
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
    bad = [n for n, gradient in by_name.items() if not cast(Tensor, gradient).isfinite().all()]
    return f"the gradient of {', '.join(bad)} is infinite or not a number" if bad else ""


def finite(subject: Subject) -> Finding:
    """In float32, the outputs of zeros, of large inputs and of wholly padded samples are finite."""
    subject = dataclasses.replace(subject, dtype=torch.float32)
    plain = subject.inputs(2, LENGTH)
    cases: dict[str, Inputs] = {
        "zeros": {name: torch.zeros_like(t) for name, t in plain.items()},
        f"inputs of magnitude {MAGNITUDE:g}": {n: MAGNITUDE * t for n, t in plain.items()},
        "a wholly padded sample": _empty_row(subject),
        "padding": padded_inputs(subject, LENGTH),
    }
    for case, inputs in cases.items():
        is_bad = ~subject.run(inputs).isfinite().all(dim=-1)  # (B, M)
        if is_bad.any():
            position = int(is_bad.any(dim=0).int().argmax())
            message = (
                f"output {position} is infinite or not a number in float32 for {case}: one such "
                f"sample ends a training run"
            )
            return Finding(subject.pattern, "finite", False, math.inf, position, message)
    return Finding(subject.pattern, "finite", True)


def dropout(subject: Subject) -> Finding:
    """Dropout acts in training, and only there; a mechanism may also refuse it."""
    if not subject.dropout:
        message = "dropout is refused: compare it with others that train without"
        return Finding(subject.pattern, "dropout", True, message=message)
    inputs = subject.inputs(2, LENGTH)
    without = subject.run(inputs)
    attention = subject.build(dropout=subject.dropout)
    worst = Worst()
    worst.update(errors(subject.run(inputs, attention), without))
    finding = subject.judge(
        "dropout",
        worst,
        lambda w: f"output {w.position} {by_how_much(w.error)} by dropout in evaluation",
    )
    if not finding.passed or not attention.mixes:
        return finding
    torch.manual_seed(subject.seed)
    trained = subject.run(inputs, attention.train())
    if errors(trained, without).max() > subject.tolerance:
        return finding
    message = (
        "dropout is accepted and has no effect in training: the mechanism is regularised less "
        "than those it is compared with"
    )
    return Finding(subject.pattern, "dropout", False, message=message)


def parameters(subject: Subject) -> Finding:
    """How many parameters it adds to a backbone over softmax attention. A warning, no failure."""
    embed_dim, num_heads = USUAL_SIZES.values()
    common = {"dropout": 0.0, "max_len": subject.max_len, "grid": None}
    own = _count(subject.factory(embed_dim, num_heads, subject.pattern, **common))
    softmax = _count(SoftmaxAttention(embed_dim, num_heads, subject.pattern))
    # The two matrices of 4 x embed_dim with their biases, and two layer norms.
    layer = softmax + 8 * embed_dim**2 + 5 * embed_dim + 4 * embed_dim
    share = (own - softmax) / layer
    message = (
        f"{own:,} parameters, softmax has {softmax:,}: {share:+.1%} of a Transformer layer with "
        f"softmax (embed_dim {embed_dim}, {num_heads} heads, max_len {subject.max_len}, feed-"
        f"forward 4 x embed_dim, no embeddings)"
    )
    passed = share <= FAIR_SHARE
    message = "" if passed else f"{message}; CAB admits +10 %, so compare at equal size too"
    return Finding(subject.pattern, "parameters", passed, share, message=message, refutes=False)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _empty_row(subject: Subject) -> Inputs:
    """Two samples, the second without a single unpadded key."""
    inputs = subject.inputs(2, LENGTH)
    keys = inputs.get("context", inputs["query"])
    mask = torch.zeros(keys.shape[:2], dtype=torch.bool, device=subject.device)
    mask[1] = True
    return inputs | {"key_padding_mask": mask}
