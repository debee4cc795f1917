"""A softmax over the positions so far, for several slots at once, without a state per position.

Shapes: B batch, H heads, L length, R slots, D width, b positions per block, T number of blocks.
"""

import torch
from torch import Tensor

from attentions.functional.chunks import in_chunks
from attentions.functional.scan import exclusive_scan, running_max, stabiliser_decay


class RunningSoftmax:
    """Means of keys or values up to position t, weighted by softmax(logits up to t) in each slot.

    Slot r at position t holds mean_tr(x) = sum over j <= t of exp(logits_jr - a_tr) x_j, with a_tr
    the log-sum-exp of the logits so far. Inside a block the weights are L b R numbers; across
    blocks one state (R, D) per block is carried, L R D / b numbers: with b near sqrt(D) both are
    small. Every exponent is taken of a difference from a maximum over the past, so nothing
    overflows and nothing later can be seen.

    Args:
        logits: (B, H, L, R); -inf leaves a position out.
        block_size: Positions per block; the result does not depend on it.
    """

    def __init__(self, logits: Tensor, *, block_size: int = 8) -> None:
        self.length = logits.shape[-2]
        self.block_size = min(block_size, self.length)
        top = in_chunks(running_max(logits, dim=-2), self.block_size)  # (B, H, T, b, R)
        logits = in_chunks(logits, self.block_size)
        end = top.amax(dim=-2, keepdim=True)  # (B, H, T, 1, R); the last block's is not used
        start = torch.cat([end[:, :, :1], end[:, :, :-1]], dim=2)
        later = torch.ones(self.block_size, self.block_size, dtype=torch.bool, device=top.device)
        gap = logits[..., None, :, :] - top[..., :, None, :]  # (B, H, T, b, b, R): of j at t
        # Clamped for the queries that fill the last block: nothing reads what they see, but where
        # its exp is infinite, the gradient is no number.
        gap = gap.masked_fill(later.triu(1)[..., None], -torch.inf)
        self.within = gap.clamp(max=0.0).exp()
        self.into_state = (logits - end).exp()
        self.from_state = (start - top).clamp(max=0.0).exp()
        self.log_decay = stabiliser_decay(end[..., 0, :].mT)  # (B, H, R, T)
        counts = self._states_before(torch.ones_like(logits[..., :1]))  # (B, H, T, R, 1)
        total = self.within.sum(dim=-2) + self.from_state * counts.mT
        # Its greatest term is 1, so that only a slot that has seen nothing is below.
        self.total = total.clamp(min=1.0)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """q_t . mean_tr(k): (B, H, L, D) twice to (B, H, L, R)."""
        q, k = in_chunks(q, self.block_size), in_chunks(k, self.block_size)
        inside = ((q @ k.mT)[..., None, :] @ self.within)[..., 0, :]
        across = self.from_state * (q @ self._states_before(k).mT)
        return self._joined((inside + across) / self.total)

    def read(self, weights: Tensor, v: Tensor) -> Tensor:
        """The sum over r of weights_tr mean_tr(v): (B, H, L, R), (B, H, L, D) to (B, H, L, D)."""
        weights, v = in_chunks(weights, self.block_size), in_chunks(v, self.block_size)
        weights = weights / self.total
        inside = (self.within @ weights[..., None])[..., 0] @ v
        across = (self.from_state * weights) @ self._states_before(v)
        return self._joined(inside + across)

    def _states_before(self, x: Tensor) -> Tensor:
        """The weighted sums of x (B, H, T, b, D) before each block: (B, H, T, R, D)."""
        sums = (self.into_state.mT @ x).transpose(2, 3)[..., None, :]  # (B, H, R, T, 1, D)
        return exclusive_scan(sums, self.log_decay)[..., 0, :].transpose(2, 3)

    def _joined(self, blocks: Tensor) -> Tensor:
        return blocks.flatten(2, 3)[:, :, : self.length]
