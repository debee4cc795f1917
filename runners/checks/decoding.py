"""Decoding: token by token, after a prompt, in a reordered beam, and what it must remember."""

import torch
from torch import Tensor

from attentions.base import State
from runners.checks.subject import Finding, Inputs, Subject, Worst, by_how_much, errors

STATE_LENGTHS = (128, 512)
"""Beyond the usual windows, whose memory is full by then."""


def step(subject: Subject) -> Finding:
    """Answer a long sequence token by token: each as the parallel form answers it."""
    length = subject.long_len
    inputs = _inputs(subject, length)
    expected = subject.run(inputs)
    state = _init_state(subject, inputs)
    outputs, _ = _steps(subject, inputs["query"], state)
    found = errors(outputs, expected)
    worst = Worst()
    worst.update(found)
    over = (found.amax(dim=0) > subject.tolerance).nonzero()
    first = int(over[0]) if len(over) else None

    def tell(worst: Worst) -> str:
        return (
            f"token {first} is the first that the step form answers otherwise than the parallel "
            f"form; token {worst.position} of {length} {by_how_much(worst.error, 'differs')}: "
            f"what is generated is not what was trained"
        )

    return subject.judge("step", worst, tell)


def prefill(subject: Subject) -> Finding:
    """Answer a prompt at once and go on by steps: as the parallel form answers the whole."""
    worst = Worst()
    for prompt in (1, 63, 64, 65, 200):
        inputs = _inputs(subject, prompt + 3)
        query = inputs["query"]
        expected = subject.run(inputs)
        attention, state = subject.attention, _init_state(subject, inputs)
        out, state = attention.prefill(query[:, :prompt], state)
        worst.update(errors(out, expected[:, :prompt]), (prompt, "the prompt itself"))
        if state.position != prompt:
            message = f"the state's position after a prompt of {prompt} is {state.position}"
            return Finding(subject.pattern, "prefill", False, position=prompt, message=message)
        after, _ = _steps(subject, query[:, prompt:], state)
        worst.update(errors(after, expected[:, prompt:]), (prompt, "the tokens after it"))

    def tell(worst: Worst) -> str:
        prompt, what = worst.case
        return (
            f"after a prompt of {prompt}, an output of {what} (number {worst.position}) "
            f"{by_how_much(worst.error, 'differs')} from the parallel form: what is generated is "
            f"not what was trained"
        )

    return subject.judge("prefill", worst, tell)


def beam(subject: Subject) -> Finding:
    """Reorder the samples of a state: the next tokens must follow their own histories."""
    inputs = _inputs(subject, 40)
    query, order = inputs["query"], torch.tensor([1, 1, 0], device=subject.device)
    expected, _ = _steps(subject, query, _init_state(subject, inputs))
    _, state = _steps(subject, query[:, :20], _init_state(subject, inputs))
    out, _ = _steps(subject, query[order, 20:], state.select(order))
    worst = Worst()
    worst.update(errors(out, expected[order, 20:]))

    def tell(worst: Worst) -> str:
        return (
            f"token {20 + (worst.position or 0)} {by_how_much(worst.error)} after the samples of "
            f"the state are reordered: a beam search would go on with another beam's memory"
        )

    return subject.judge("beam", worst, tell)


def state_growth(subject: Subject) -> Finding:
    """The bytes of the state after n and 4 n tokens of query and context. Reported, no failure."""
    bytes_by_length = []
    for length in STATE_LENGTHS:
        inputs = {name: t[:1] for name, t in _inputs(subject, length).items()}
        inputs.pop("key_padding_mask", None)
        if "context" in inputs:
            inputs["context"] = subject.draw(1, length, subject.embed_dim)
        _, state = _steps(subject, inputs["query"], _init_state(subject, inputs))
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


def _inputs(subject: Subject, length: int) -> Inputs:
    """Two samples; in causal cross the second's context ends in padding."""
    inputs = subject.inputs(2, length)
    if "context" in inputs:
        mask = torch.zeros(inputs["context"].shape[:2], dtype=torch.bool, device=subject.device)
        mask[1, mask.shape[1] // 2 + 1 :] = True
        inputs["key_padding_mask"] = mask
    return inputs


def _init_state(subject: Subject, inputs: Inputs) -> State:
    batch_size = len(inputs["query"])
    return subject.attention.init_state(
        batch_size, inputs.get("context"), inputs.get("key_padding_mask")
    )


@torch.no_grad()
def _steps(subject: Subject, query: Tensor, state: State) -> tuple[Tensor, State]:
    """The outputs (B, M, E) of M steps, and the state after them."""
    outputs = []
    for token in query.split(1, dim=1):
        out, state = subject.attention.step(token, state)
        outputs.append(out)
    return torch.cat(outputs, dim=1), state
