"""The numbers that come out: finite for any input, and nearly the same in half precision."""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runners.checks.decoding import init_state, steps
from runners.checks.padding import padded_inputs
from runners.checks.subject import Finding, Inputs, Mode, Subject, Unexamined, by_how_much

MAGNITUDE = 1e3
LARGEST_ROUNDING = 30
"""Roundings to the last place of the largest number; each of a few sums and products makes some."""
ROWS_THAT_AGREE = 0.9
"""A choice (top-k, sorting, hashing) may turn on a rounding in a few rows."""
STEPS = 3


def finite(subject: Subject) -> Finding:
    """In float32, the outputs of zeros, of large inputs and of wholly padded samples are finite."""
    subject = dataclasses.replace(subject, dtype=torch.float32)
    plain = [subject.inputs(2, length) for length in (subject.length, subject.long_len)]
    cases: dict[str, list[Inputs]] = {
        "ordinary inputs": plain,
        "zeros": [magnified(inputs, 0.0) for inputs in plain],
        f"inputs of magnitude {MAGNITUDE:g}": [magnified(inputs, MAGNITUDE) for inputs in plain],
        "a wholly padded sample": [empty_row(subject, subject.length)],
        "padding": [padded_inputs(subject, subject.length)],
    }
    for case, batches in cases.items():
        for inputs in batches:
            is_bad = ~subject.run(inputs).isfinite().all(dim=-1)  # (B, M)
            if is_bad.any():
                position = int(is_bad.any(dim=0).int().argmax())
                padded = inputs.get(subject.query_mask, torch.zeros_like(is_bad))
                where = "at padded queries " if not (is_bad & ~padded).any() else ""
                message = (
                    f"output {position} is infinite or not a number {where}in float32 for {case}: "
                    f"one such sample ends a training run"
                )
                return Finding(subject.pattern, "finite", False, math.inf, position, message)
    return Finding(subject.pattern, "finite", True)


def precision(subject: Subject) -> Finding:
    """In bfloat16, float16 and under autocast it runs, and answers nearly as in full precision."""
    kinds = [
        dataclasses.replace(subject, dtype=kind, mode=Mode(f"in {_name(kind)}"))
        for kind in (torch.bfloat16, torch.float16)
    ]
    kinds.append(
        dataclasses.replace(
            subject,
            dtype=torch.float32,
            mode=Mode("under autocast to bfloat16", autocast=torch.bfloat16),
        )
    )
    unexamined = []
    for kind in kinds:
        try:
            with unless_not_implemented(kind.mode.name):
                problem = _precision_problem(subject, kind)
        except Unexamined as reason:
            unexamined.append(str(reason))
            continue
        except Exception as error:
            error.add_note(kind.mode.name)
            raise
        if problem:
            return Finding(subject.pattern, "precision", False, message=kind.told(problem))
    return Finding(subject.pattern, "precision", True, unexamined=tuple(unexamined))


def _precision_problem(subject: Subject, kind: Subject) -> str:
    attention, reference = kind.attention, subject.build()
    reference.load_state_dict(attention.state_dict())  # the rounded weights
    tolerance = LARGEST_ROUNDING * torch.finfo(kind.mode.autocast or kind.dtype).eps
    for inputs in (kind.inputs(2, kind.length), padded_inputs(kind, kind.length)):
        # From the rounded inputs too, so that just the computing differs.
        given = {n: t.to(subject.dtype) if t.is_floating_point() else t for n, t in inputs.items()}
        expected, actual = subject.run(given, reference), kind.run(inputs)
        found = kind.errors(actual.to(expected.dtype), expected, inputs.get(kind.query_mask))
        if (found == math.inf).any():
            return "an output is infinite or not a number"
        if (found < tolerance).double().mean() < ROWS_THAT_AGREE:
            far = (found >= tolerance).sum()
            return (
                f"{far} of {found.numel()} outputs differ by more than rounding from those in "
                f"{_name(subject.dtype)}, the worst {by_how_much(float(found.max()), 'differs')}"
            )
    if kind.mode.autocast:
        return _backward_problem(kind)
    return _decoding_problem(kind) if subject.pattern.is_causal else ""


def _backward_problem(kind: Subject) -> str:
    """A step of training as bf16-mixed makes it."""
    attention = kind.build(dropout=kind.dropout).train()
    learning = [p for p in attention.parameters() if p.requires_grad]
    out = kind.call(attention, kind.inputs(2, kind.length))
    if not learning or not out.requires_grad:
        return ""
    gradients = torch.autograd.grad(out.float().sum(), learning, allow_unused=True)
    if all(gradient is None or gradient.isfinite().all() for gradient in gradients):
        return ""
    return "a gradient is infinite or not a number"


@torch.no_grad()
def _decoding_problem(kind: Subject) -> str:
    """A prompt and a few tokens come out in the type that went in."""
    prompt = max(1, kind.length - STEPS)
    inputs = kind.inputs(2, prompt + STEPS)
    query = inputs["query"]
    try:
        first, state = kind.attention.prefill(query[:, :prompt], init_state(kind, inputs))
        after, _ = steps(kind, query[:, prompt:], state)
    except NotImplementedError:
        return ""  # `step` says so
    for out in (first, after):
        if out.dtype != query.dtype:
            return f"decoding answers in {_name(out.dtype)}"
        if not out.isfinite().all():
            return "decoding answers with what is infinite or not a number"
    return ""


def magnified(inputs: Inputs, scale: float) -> Inputs:
    """Sequences that many times as large."""
    return {name: scale * t for name, t in inputs.items()}


def empty_row(subject: Subject, length: int) -> Inputs:
    """Two samples, the second without a single unpadded key."""
    inputs = subject.inputs(2, length)
    keys = inputs.get("context", inputs["query"])
    mask = torch.zeros(keys.shape[:2], dtype=torch.bool, device=subject.device)
    mask[1] = True
    return inputs | {"key_padding_mask": mask}


@contextmanager
def unless_not_implemented(what: str) -> Iterator[None]:
    """Turns torch's word that an operation has no kernel for a type into `Unexamined`."""
    try:
        yield
    except RuntimeError as error:
        if "not implemented for" not in str(error):
            raise
        raise Unexamined(f"the module {what}, for which torch says: {error}") from error


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
