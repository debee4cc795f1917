"""Completion of a scanned shape, CAB's PCC: PoinTr on PCN.

Source: Zhang et al., CAB, ICML 2023, arXiv:2210.07661; Yu et al., PoinTr, ICCV 2021.
Departs from CAB: the checkpoint is selected on the validation split, where the reference code has
the test split in its place; see `tasks.cab.point_cloud_completion.data` and
`tasks.backbones.pointr`.
In: a scan (B, N, 3). Out: a coarse and a fine cloud (B, G, 3). Scores: means over the objects of a
category, then over categories.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attentions.base import Pattern
from tasks.backbones.pointr import PoinTr
from tasks.base import AttentionSlots, Task
from tasks.cab.point_cloud_completion.data import Batch
from tasks.cab.point_cloud_completion.drawing import draw_clouds
from tasks.metrics.chamfer import chamfer_l1, cloud_scores
from tasks.metrics.groups import GroupMeans

NUM_SHOWN = 4
"""Test rows that are drawn."""


class PointCloudCompletion(Task):
    """Complete a scan, trained on the Chamfer distances of the coarse and the fine cloud.

    Args:
        slots: Give the attentions.
        num_categories: Of the data.
        lr: Of AdamW at the beginning.
        weight_decay: Of weights; biases and norms do not decay.
        lr_decay: The rate is multiplied by this in `decay_epochs`, a little in each epoch.
        least_lr: Where the rate stays, as a share of `lr`.
        decay_epochs: Of the rate and of the momentum of batch norm.
        norm_momentum: Of batch norm at the beginning: the weight of a new batch in its means.
        norm_decay: The momentum is multiplied by this in `decay_epochs`.
        least_norm_momentum: Where it stays.
        **sizes: Of the `PoinTr`.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS})
    directions: ClassVar = {"cd_l1": "lower", "cd_l2": "lower", "f_score": "higher"}
    backbone = "PoinTr"

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        num_categories: int,
        lr: float,
        weight_decay: float,
        lr_decay: float,
        least_lr: float,
        decay_epochs: float,
        norm_momentum: float,
        norm_decay: float,
        least_norm_momentum: float,
        **sizes: Any,
    ) -> None:
        super().__init__(slots)
        self.complete = PoinTr(slots, **sizes)
        self.lr, self.weight_decay = lr, weight_decay
        self.lr_decay, self.least_lr, self.decay_epochs = lr_decay, least_lr, decay_epochs
        self.norm_momentum, self.norm_decay = norm_momentum, norm_decay
        self.least_norm_momentum = least_norm_momentum
        self.scores = GroupMeans(tuple(self.directions), num_categories)
        self._shown: dict[str, Tensor] = {}

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """The sum of both Chamfer distances, the mean over clouds."""
        coarse, fine = self.complete(batch.scan)
        loss = chamfer_l1(coarse, batch.complete) + chamfer_l1(fine, batch.complete)
        return loss.mean(), len(loss)

    def on_train_epoch_start(self) -> None:
        """Set the momentum of batch norm, which the reference code lowers from epoch 2 on."""
        late = max(self.current_epoch - 1, 0) / self.decay_epochs
        momentum = max(self.norm_momentum * self.norm_decay**late, self.least_norm_momentum)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = momentum

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the scores of the fine cloud."""
        self._score(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the scores of the fine cloud, and keep the first of them to be looked at."""
        fine = self._score(batch)
        if batch_idx == 0:
            clouds = {"scan": batch.scan, "completed": fine, "whole shape": batch.complete}
            self._shown = {name: cloud[:NUM_SHOWN] for name, cloud in clouds.items()}

    def write_samples(self, folder: Path) -> None:
        """Draw the first test rows, `clouds.png`."""
        if self._shown:
            draw_clouds(folder / "clouds.png", self._shown)

    def configure_optimizers(self) -> Any:
        """AdamW whose rate falls from epoch to epoch; what is one-dimensional does not decay."""
        first, *others = self.parameter_groups(self.lr)
        weights = [p for p in first["params"] if p.dim() > 1]
        spared = [p for p in first["params"] if p.dim() <= 1]
        groups = [{"params": weights}, {"params": spared, "weight_decay": 0.0}, *others]
        optimizer = torch.optim.AdamW(
            groups, lr=self.lr, weight_decay=self.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda epoch: max(self.lr_decay ** (epoch / self.decay_epochs), self.least_lr),
        )
        return [optimizer], [schedule]

    def _score(self, batch: Batch) -> Tensor:
        fine = self.complete(batch.scan)[1]
        self.scores.update(cloud_scores(fine, batch.complete), batch.category)
        return fine

    def on_validation_epoch_start(self) -> None:
        """Begin anew."""
        self.scores.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the means."""
        self.log_dict(self.scores.compute())

    def on_test_epoch_start(self) -> None:
        """Begin anew."""
        self.scores.reset()

    def on_test_epoch_end(self) -> None:
        """Log the means."""
        self.log_dict(self.scores.compute())
