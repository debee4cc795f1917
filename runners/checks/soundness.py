"""A module that fits its place: its shape, strict settings, arguments left alone, a fair size."""

import torch
from torch import nn

from attentions.softmax.softmax import SoftmaxAttention
from runners.checks.padding import padded_inputs
from runners.checks.subject import Finding, Subject

FAIR_SHARE = 0.1
"""CAB admits a mechanism that adds at most 10 % to the parameters of its backbone."""
USUAL_SIZES = {"embed_dim": 512, "num_heads": 8}


def construction(subject: Subject) -> Finding:
    """Builds at the sizes of the examination, and answers with the query's shape."""
    subject.run(subject.inputs(2, subject.length))
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
    inputs = padded_inputs(subject, subject.length)
    given = {name: tensor.clone() for name, tensor in inputs.items()}
    with torch.no_grad():
        subject.call(subject.attention, given)
    changed = [name for name, tensor in inputs.items() if not torch.equal(tensor, given[name])]
    message = ""
    if changed:
        message = (
            f"a call overwrites its {' and '.join(changed)}: the residual connection around it "
            f"would add something else"
        )
    return Finding(subject.pattern, "keeps_inputs", not changed, message=message)


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
