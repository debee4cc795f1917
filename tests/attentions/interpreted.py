"""Compares the back end `fla` with torch's, by Triton's interpreter: no GPU is needed.

Run as `python -m tests.attentions.interpreted NAME` with TRITON_INTERPRET=1, which Triton reads
when it is imported: hence a process of its own. Exits with 1 and says where they differ.
"""

import builtins
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from attentions.base import Pattern
from tests.attentions.claims import build, holes, inputs, outputs_and_gradients

LENGTHS = (1, 70)
"""70 crosses the border of the kernels' chunks, of 64 positions."""


class Index(int):
    """A loop variable, which the kernels cast as they do a tensor."""

    def to(self, *_: Any) -> "Index":
        """Itself: the interpreter counts in Python's integers."""
        return self


def counted(*bounds: Any) -> Iterator[Index]:
    """`range`, for the loops of the kernels."""
    return (Index(i) for i in builtins.range(*bounds))


def make_interpretable() -> None:
    """What the kernels expect of the compiler and the interpreter lacks: no clock, no casts."""
    from triton.runtime.autotuner import Autotuner

    Autotuner._bench = lambda *_, **__: [1.0, 1.0, 1.0]  # all settings are as good
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no GPU
        import fla.ops  # noqa: F401
    for name, module in list(sys.modules.items()):
        if name.startswith("fla.ops"):
            module.__dict__["range"] = counted


def differences(
    name: str, pattern: Pattern, *, device: str = "cpu", tolerance: float = 1e-3
) -> Iterator[str]:
    """Where the two back ends differ by more than `tolerance` of the largest number.

    In float32, as the interpreter computes, 1e-3 is some 10,000 roundings: Mamba-2's gradients of
    its rates, differences of larger sums, are 2e-4 off. A decay left out is 2e-1.
    """
    for length in LENGTHS:
        query = inputs(pattern, length, batch_size=3)[0].float().to(device)
        padding = holes(2, 3, length).to(device)
        torch.manual_seed(0)
        of_torch = build(name, pattern).float().to(device)
        of_fla = build(name, pattern, backend="fla").float().to(device)
        of_fla.load_state_dict(of_torch.state_dict())
        expected = outputs_and_gradients(of_torch, query, key_padding_mask=padding)
        actual = outputs_and_gradients(of_fla, query, key_padding_mask=padding)
        largest = max(x.abs().amax().item() for x in expected.values())
        for what, x in expected.items():
            # What should be zero is a difference of larger numbers: of those it is 1 % here.
            scale = max(x.abs().amax().item(), 1e-2 * largest)
            off = (actual[what] - x).abs().amax().item() / scale
            if not off < tolerance:
                yield f"{name} {pattern} length {length}: {what} is off by {off:.1e} of its size"


if __name__ == "__main__":
    assert os.environ["TRITON_INTERPRET"] == "1"
    make_interpretable()
    found = [
        f"{name}: {text}"
        for name in sys.argv[1:]
        for pattern in type(build(name, Pattern.CAUSAL_SELF)).backends["fla"]
        for text in differences(name, pattern)
    ]
    sys.exit("\n".join(found) if found else 0)
