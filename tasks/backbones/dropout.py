"""Dropout that does not dominate a training step on the CPU.

There, torch draws one Bernoulli number in the time of a dozen additions (12 ns against 1 to 2 ns
for an addition, one core): a fifth of a step of Informer. Sixteen random bits for each element
decide as well, and cost a sixth.
"""

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """`nn.Dropout`, with the probability rounded to a multiple of 2^-16 on the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Map any shape to itself."""
        if not self.training or self.p == 0.0 or input.device.type != "cpu":
            return super().forward(input)
        threshold = round(self.p * 2**16)
        words = torch.empty((input.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: input.numel()].view(input.shape)
        kept = torch.empty_like(input, memory_format=torch.contiguous_format, requires_grad=False)
        torch.ge(bits, threshold - 2**15, out=kept)  # a bool tensor and its cast take twice as long
        return input * kept.mul_(1 / (1 - threshold / 2**16))
