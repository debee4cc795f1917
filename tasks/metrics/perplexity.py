"""Perplexity from sums of negative log-likelihoods.

torchmetrics' own wants the logits of a batch at once, (B, N, vocabulary); here they can come and go
in pieces.
"""

from torch import Tensor

from tasks.metrics.mean import Mean


class Perplexity(Mean):
    """exp of the mean negative log-likelihood (nats) of a token, over all that were seen."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """The perplexity; NaN before the first token."""
        return super().compute().exp()
