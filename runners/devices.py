"""The devices that can be asked for."""

import torch

from attentions.base import Unavailable
from runners.mistakes import unknown

DEVICES = ("auto", "cpu", "cuda")


def find(name: str) -> torch.device:
    """The device of this name; `auto` is CUDA where there is a device of it, else the CPU.

    Raises:
        ValueError: If there is no such name.
        Unavailable: If this machine lacks the device.
    """
    if name not in DEVICES:
        raise ValueError(unknown("device", str(name), DEVICES))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise Unavailable("device cuda: torch sees no CUDA device on this machine")
    return torch.device(name)
