"""Perplexity from sums of negative log-likelihoods.

torchmetrics' own wants the logits of a batch at once, (B, N, vocabulary); here they can come and go
in pieces.
"""

import torch
from torch import Tensor
from torchmetrics import Metric


class Perplexity(Metric):
    """exp(total negative log-likelihood / number of tokens), over all tokens that were seen."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total_nll: Tensor
    num_tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        # In float32 a sum over ten million tokens would lose the later ones.
        self.add_state("total_nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, total_nll: Tensor, num_tokens: Tensor | int) -> None:
        """Add the sum of the negative log-likelihoods (nats) of `num_tokens` tokens."""
        self.total_nll += total_nll
        self.num_tokens += num_tokens

    def compute(self) -> Tensor:
        """The perplexity; NaN before the first token."""
        return (self.total_nll / self.num_tokens).exp()
