"""Long-sequence time-series forecasting, CAB's LSTF: Informer on ETT, Weather and Electricity.

Source: Zhang et al., CAB, ICML 2023; Zhou et al., Informer, AAAI 2021, arXiv:2012.07436.
Departs from them: see `tasks.cab.forecasting.data`, `forecasting.series` and
`tasks.backbones.informer`.
In: past (B, I, C). Out: future (B, M, C). Scores: on standardised values, over all windows.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Pattern
from tasks.backbones.informer import Informer
from tasks.base import AttentionSlots, Task
from tasks.cab.forecasting.data import Batch
from tasks.metrics.mean import Mean


class Forecasting(Task):
    """Predict `horizon` steps from the past, trained on squared error.

    Args:
        slots: Give the attentions.
        lr: Of Adam in the first two epochs; then halved after each.
        **sizes: Of the `Informer`.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS})
    directions: ClassVar = {"mse": "lower", "mae": "lower"}
    backbone = "Informer"

    def __init__(self, slots: AttentionSlots, *, lr: float, **sizes: Any) -> None:
        super().__init__(slots)
        self.forecast = Informer(slots, **sizes)
        # These count values; a mean of batch means would misweigh the shorter last batch.
        self.mse, self.mae = Mean(), Mean()
        self.lr = lr

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Mean squared error."""
        forecast = self.forecast(batch.past, batch.times).float()
        return F.mse_loss(forecast, batch.future.float()), batch.future.numel()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the errors."""
        error = self.forecast(batch.past, batch.times).double() - batch.future.double()
        self.mse.update(error.square().sum(), error.numel())
        self.mae.update(error.abs().sum(), error.numel())
        self.log_dict({"mse": self.mse, "mae": self.mae}, on_step=False, on_epoch=True)

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        """Adam, as the reference code: its halving begins after the second epoch."""
        optimizer = torch.optim.Adam(self.parameter_groups(self.lr), lr=self.lr, fused=True)
        halving = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: 0.5 ** max(epoch - 1, 0)
        )
        return [optimizer], [halving]
