"""Decoding: token by token, after a prompt, in a reordered beam, and what it must remember."""

import torch
from torch import Tensor

from attentions.base import State
from runners.checks.padding import padding_masks
from runners.checks.subject import STATE_LENGTHS, Finding, Inputs, Subject, Worst, by_how_much

CHUNK = 64
"""After a prompt it goes on until beyond the next multiple: a block must end behind the prompt."""


def step(subject: Subject) -> Finding:
    """Answer a long sequence token by token: each as the parallel form answers it."""
    length = subject.long_len
    worst, first = Worst(), None
    for context_len in subject.context_lens(length):
        inputs = _inputs(subject, length, context_len)
        expected = subject.run(inputs)
        outputs, _ = steps(subject, inputs["query"], init_state(subject, inputs))
        found = subject.errors(outputs, expected)
        over = (found.amax(dim=0) > subject.tolerance).nonzero()
        if len(over) and first is None:
            first = int(over[0])
        worst.update(found, int(found.amax(dim=1).argmax()))

    def tell(worst: Worst) -> str:
        padded = ", whose context has padding" if worst.row and subject.pattern.is_cross else ""
        return (
            f"token {first} is the first that the step form answers otherwise than the parallel "
            f"form; token {worst.position} of {length}{padded} "
            f"{by_how_much(worst.error, 'differs')}: what is generated is not what was trained"
        )

    return subject.judge("step", worst, tell)


def prefill(subject: Subject) -> Finding:
    """Answer a prompt at once and go on by steps: as the parallel form answers the whole."""
    worst = Worst()
    for prompt in subject.lengths:
        length = min(prompt // CHUNK * CHUNK + CHUNK + 2, subject.long_len)
        inputs = _inputs(subject, length)
        query = inputs["query"]
        expected = subject.run(inputs)
        attention, state = subject.attention, init_state(subject, inputs)
        out, state = attention.prefill(query[:, :prompt], state)
        worst.update(subject.errors(out, expected[:, :prompt]), (prompt, "the prompt itself"))
        if state.position != prompt:
            message = f"the state's position after a prompt of {prompt} is {state.position}"
            return Finding(subject.pattern, "prefill", False, position=prompt, message=message)
        after, _ = steps(subject, query[:, prompt:], state)
        found = subject.errors(after, expected[:, prompt:])
        worst.update(found, (prompt, "the tokens after it"))

    def tell(worst: Worst) -> str:
        prompt, what = worst.case
        return (
            f"after a prompt of {prompt}, an output of {what} (number {worst.position}) "
            f"{by_how_much(worst.error, 'differs')} from the parallel form: what is generated is "
            f"not what was trained"
        )

    return subject.judge("prefill", worst, tell)


def beam(subject: Subject) -> Finding:
    """Reorder the samples of a state: the next tokens must follow their own histories.

    Behind a few steps, right behind a prompt, and before the first token, as a beam search does.
    """
    inputs = _inputs(subject, 40)
    query = inputs["query"]
    order = torch.tensor([1, 1, 2, 0], device=subject.device)
    expected, _ = steps(subject, query, init_state(subject, inputs))
    worst = Worst()
    for event, num_before in (("of a new state", 0), ("behind a prompt", 20), ("behind steps", 20)):
        state = init_state(subject, inputs)
        if event == "behind a prompt":
            _, state = subject.attention.prefill(query[:, :num_before], state)
        elif num_before:
            _, state = steps(subject, query[:, :num_before], state)
        out, _ = steps(subject, query[order, num_before:], state.select(order))
        found = subject.errors(out, expected[order, num_before:])
        worst.update(found, (event, num_before))

    def tell(worst: Worst) -> str:
        event, num_before = worst.case
        return (
            f"token {num_before + (worst.position or 0)} {by_how_much(worst.error)} after the "
            f"samples {event} are reordered: a beam search would go on with another beam's memory"
        )

    return subject.judge("beam", worst, tell)


def state_growth(subject: Subject) -> Finding:
    """The bytes of the state after n and 4 n tokens of query and context. Reported, no failure."""
    bytes_by_length = []
    for length in STATE_LENGTHS:
        inputs = subject.inputs(1, length, context_len=length)
        _, state = steps(subject, inputs["query"], init_state(subject, inputs))
        bytes_by_length.append(state.num_bytes)
    short, long = bytes_by_length
    growth = long / short if short else 1.0
    of = "tokens of query and context" if subject.pattern.is_cross else "tokens"
    message = (
        f"{'grows' if growth > 1 else 'constant'}: {short:,} bytes after {STATE_LENGTHS[0]} {of}, "
        f"{long:,} after {STATE_LENGTHS[1]} (one sample, embed_dim {subject.embed_dim}, "
        f"{str(subject.dtype).removeprefix('torch.')})"
    )
    return Finding(subject.pattern, "state_growth", True, growth, message=message)


def _inputs(subject: Subject, length: int, context_len: int | None = None) -> Inputs:
    """Three samples; in causal cross the contexts of two have padding: a tail, and holes."""
    inputs = subject.inputs(3, length, context_len=context_len)
    if "context" in inputs:
        masks = padding_masks(subject, inputs["context"].shape[1])
        inputs["key_padding_mask"] = masks[[9, 1, 6]]
    return inputs


def init_state(subject: Subject, inputs: Inputs) -> State:
    """The state before the first token."""
    batch_size = len(inputs["query"])
    return subject.attention.init_state(
        batch_size, inputs.get("context"), inputs.get("key_padding_mask")
    )


@torch.no_grad()
def steps(subject: Subject, query: Tensor, state: State) -> tuple[Tensor, State]:
    """The outputs (B, M, E) of M steps, and the state after them."""
    outputs = []
    for token in query.split(1, dim=1):
        out, state = subject.attention.step(token, state)
        outputs.append(out)
    return torch.cat(outputs, dim=1), state
