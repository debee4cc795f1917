"""Super-resolution by diffusion, CAB's SR: SR3 from 16 x 16 to 128 x 128 faces.

Source: Zhang et al., CAB, ICML 2023, arXiv:2210.07661; Saharia et al., SR3, TPAMI 2022,
arXiv:2104.07636, in the code named in `tasks.backbones.sr3`.
Departs from CAB: one list of resolutions with attention for every mechanism (CAB gave softmax five
attentions fewer); the last checkpoint is tested, where CAB averages the scores of five; the noise
of an evaluation is seeded, by row; what `diffusion`, `scores`, `images` and `data` say.
In: a small image, enlarged (B, 3, S, S). Out: the noise in a noisy one, or an image out of noise.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from attentions.base import Pattern
from tasks.backbones.sr3 import UNet
from tasks.base import AttentionSlots, Task
from tasks.cab.super_resolution.data import Batch, nearest
from tasks.cab.super_resolution.diffusion import Diffusion, noised
from tasks.cab.super_resolution.scores import NAMES, from_bytes, in_bytes, scores
from tasks.metrics.mean import Mean, Means

SHOWN = 8
"""Test rows that `write_samples` draws."""
MOST_ROWS = 1_000_003
"""Of a split: the seeds of their second samples come behind these."""
TILE = 128
"""Least side of an image there, in pixels."""


class SuperResolution(Task):
    """Predict the noise in an image, trained on its absolute error.

    Logs `loss`, and in validation `psnr_fast`, of a few steps without noise in between (DDIM).
    PSNR and SSIM are those of images sampled step by step, in `predict_step`.

    Args:
        slots: Give the attentions.
        image_size: Of the data.
        lr: Of Adam.
        warmup_steps: Optimizer steps of linear warm-up, before the constant rate.
        flips: Whether half of the training images are mirrored.
        num_steps: Of the diffusion.
        beta_start: See `Diffusion`.
        beta_end: The same.
        sampling_steps: Of a sample that is scored; None for all.
        fast_steps: Of one in validation; None for none.
        num_draws: Samples of each test image; their scores are averaged.
        **sizes: Of the `UNet`.

    Raises:
        ValueError: If there is to be no sample, or one of more steps than there are.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF})
    directions: ClassVar = {
        "loss": "lower",
        "psnr_fast": "higher",
        **dict.fromkeys(NAMES, "higher"),
    }
    backbone = "SR3"

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        image_size: int,
        lr: float,
        warmup_steps: int = 1,
        flips: bool = True,
        num_steps: int = 2000,
        beta_start: float = 1e-6,
        beta_end: float = 1e-2,
        sampling_steps: int | None = None,
        fast_steps: int | None = None,
        num_draws: int = 1,
        **sizes: Any,
    ) -> None:
        super().__init__(slots)
        self.diffusion = Diffusion(num_steps=num_steps, beta_start=beta_start, beta_end=beta_end)
        if num_draws < 1:
            raise ValueError(f"num_draws must be positive, got {num_draws}")
        for steps in (sampling_steps, fast_steps):
            self.diffusion.times(steps)  # refuses what it cannot do, before any training
        self.unet = UNet(slots, image_size=image_size, **sizes)
        self.lr, self.warmup_steps, self.flips = lr, warmup_steps, flips
        self.sampling_steps, self.fast_steps = sampling_steps, fast_steps
        self.num_draws = num_draws
        self.noise_loss, self.psnr_fast = Mean(), Mean()
        self.means = Means(NAMES)
        self.shown: list[tuple[Batch, Tensor]] = []

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Mean absolute error of the noise."""
        original, condition = from_bytes(batch.original), from_bytes(batch.enlarged)
        if self.training and self.flips:
            flipped = torch.rand(len(original), 1, 1, 1, device=original.device) < 0.5
            original = torch.where(flipped, original.flip(3), original)
            condition = torch.where(flipped, condition.flip(3), condition)
        level = self.diffusion.draw_levels(len(original)).to(original.device)
        noise = torch.randn_like(original)
        error = self._error(original, condition, level, noise)
        return error.mean(), error.numel()

    def _error(self, original: Tensor, condition: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        predicted = self.unet(noised(original, level, noise), condition, level)
        return (predicted.float() - noise).abs()

    def _count_loss(self, batch: Batch) -> None:
        """At levels and with noise that each row has to itself, in every epoch and batch."""
        levels, noises = [], []
        for row in batch.rows.tolist():
            generator = torch.Generator().manual_seed(row)
            levels.append(self.diffusion.draw_levels(1, generator))
            noises.append(torch.randn(batch.original.shape[1:], generator=generator))
        device = batch.original.device
        original, condition = from_bytes(batch.original), from_bytes(batch.enlarged)
        error = self._error(
            original, condition, torch.cat(levels).to(device), torch.stack(noises).to(device)
        )
        self.noise_loss.update(error.double().sum(), error.numel())
        self.log("loss", self.noise_loss, on_step=False, on_epoch=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the loss, and the PSNR of fast samples."""
        self._count_loss(batch)
        if self.fast_steps is not None:
            images = self.enlarge(batch, num_steps=self.fast_steps, eta=0.0)
            values = scores(images, batch.original)["psnr"]
            self.psnr_fast.update(values.sum(), len(values))
            self.log("psnr_fast", self.psnr_fast, on_step=False, on_epoch=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the loss."""
        self._count_loss(batch)

    def on_predict_epoch_start(self) -> None:
        """Forget what was sampled before."""
        self.shown = []
        self.means.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Score samples."""
        for number in range(self.num_draws):
            images = self.enlarge(batch, num_steps=self.sampling_steps, eta=1.0, number=number)
            for name, values in scores(images, batch.original).items():
                self.means[name].update(values.sum(), len(values))
            if number == 0 and sum(len(kept) for _, kept in self.shown) < SHOWN:
                self.shown.append((Batch(*(part.cpu() for part in batch)), images.cpu()))

    def measure(self) -> list[dict[str, Any]]:
        """PSNR and SSIM of what was sampled."""
        return self.means.measured(self.directions)

    def enlarge(
        self, batch: Batch, *, num_steps: int | None, eta: float, number: int = 0
    ) -> Tensor:
        """Samples for the small images of a batch, whole numbers 0 to 255, (B, 3, S, S).

        Args:
            batch: Its images; the originals are not looked at.
            num_steps: See `Diffusion.sample`.
            eta: The same.
            number: Of the sample. A row has its own noise for each, whatever is beside it.
        """
        condition = from_bytes(batch.enlarged)

        def predict(x: Tensor, level: Tensor) -> Tensor:
            return self.unet(x, condition, level).float()

        draw = _noise_of_rows(batch.rows, number, batch.enlarged[0].shape, condition.device)
        return in_bytes(self.diffusion.sample(predict, draw, num_steps=num_steps, eta=eta))

    def write_samples(self, folder: Path) -> None:
        """`samples.png`: a line for each image; small, bicubic, sampled, original."""
        from PIL import Image

        lines = []
        for batch, images in self.shown:
            columns = [nearest(batch), batch.enlarged, images.to(torch.uint8), batch.original]
            lines += [torch.cat(line, dim=2) for line in zip(*columns, strict=True)]
        if not lines:
            return
        grid = torch.cat(lines[:SHOWN], dim=1).permute(1, 2, 0).numpy()
        factor = -(-TILE // self.shown[0][1].shape[-1])
        grid = grid.repeat(factor, axis=0).repeat(factor, axis=1)
        Image.fromarray(grid).save(folder / "samples.png")

    def configure_optimizers(self) -> Any:
        """Adam at a constant rate, behind the warm-up."""
        optimizer = torch.optim.Adam(self.parameter_groups(self.lr), lr=self.lr, fused=True)
        warmup = self.warmup_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, 1.0)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _noise_of_rows(
    rows: Tensor, number: int, shape: torch.Size, device: torch.device
) -> Callable[[], Tensor]:
    """Gives noise (B, *shape), of each row from a seed of its own, the same on every device."""
    # Torch's generator on the CPU takes no more than 32 bits of a seed.
    generators = [torch.Generator().manual_seed(number * MOST_ROWS + row) for row in rows.tolist()]
    return lambda: torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)
