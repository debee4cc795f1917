"""The devices that can be asked for."""

import difflib

import torch

from attentions.base import Unavailable

DEVICES = ("auto", "cpu", "cuda")


def find(name: str) -> torch.device:
    """The device of this name; `auto` is CUDA where there is a device of it, else the CPU.

    Raises:
        ValueError: If there is no such name.
        Unavailable: If this machine lacks the device.
    """
    if name not in DEVICES:
        near = difflib.get_close_matches(str(name), DEVICES, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown device {str(name)!r}{hint} (known: {', '.join(DEVICES)})")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise Unavailable("device cuda: torch sees no CUDA device on this machine")
    return torch.device(name)
