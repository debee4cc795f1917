"""Gaussian diffusion with a continuous noise level: how noise is added, and taken away again.

Source: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239;
Chen et al., "WaveGrad", ICLR 2021, arXiv:2009.00713 (the continuous level); Song et al., "Denoising
Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502 (fewer steps).
Departs from the code that CAB ran (see `tasks.backbones.sr3`): a step is drawn for each image, as
in SR3's paper, and not one for all images of a batch.

The level of an image is the square root of the share of the image in its variance: 1 for the image
itself, near 0 for noise.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor], Tensor]
"""The noise in images (B, C, S, S) of the levels (B,)."""


class Diffusion:
    """A schedule of noise that rises linearly.

    Args:
        num_steps: From the image to noise.
        beta_start: Variance of the noise that the first step adds.
        beta_end: The same, of the last.

    Raises:
        ValueError: If there is no step, or a variance is not between 0 and 1.
    """

    def __init__(self, *, num_steps: int, beta_start: float, beta_end: float) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps must be positive, got {num_steps}")
        if not 0.0 < beta_start <= beta_end < 1.0:
            raise ValueError(
                f"expected 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}"
            )
        betas = torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64)
        shares = torch.cat([torch.ones(1, dtype=torch.float64), (1.0 - betas).cumprod(0)])
        self.num_steps = num_steps
        self.shares = shares
        """Of the image in the variance, behind each number of steps, float64 (steps + 1,)."""

    def draw_levels(self, num_rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Levels to train at, (B,): uniform between those before and behind a random step."""
        step = torch.randint(self.num_steps, (num_rows,), generator=generator)
        low, high = self.shares[step + 1].sqrt(), self.shares[step].sqrt()
        part = torch.rand(num_rows, generator=generator, dtype=torch.float64)
        return (low + part * (high - low)).float()

    def times(self, num_steps: int | None) -> list[int]:
        """Numbers of steps to stop at on the way back, at even distances; the last is 0."""
        count = self.num_steps if num_steps is None else num_steps
        if not 0 < count <= self.num_steps:
            raise ValueError(f"steps must be between 1 and {self.num_steps}, got {count}")
        return [round(i * self.num_steps / count) for i in reversed(range(count + 1))]

    @torch.no_grad()
    def sample(
        self,
        predict: Predict,
        draw: Callable[[], Tensor],
        *,
        num_steps: int | None = None,
        eta: float = 1.0,
    ) -> Tensor:
        """Images (B, C, S, S) out of noise.

        Args:
            predict: Says what of an image is noise. What is not is kept within [-1, 1].
            draw: Gives noise (B, C, S, S), at each call other.
            num_steps: Of the schedule; None for all. Fewer skip over what is between.
            eta: 1 draws from the posterior of each step (ancestral sampling), 0 draws nothing but
                the noise at the start (DDIM).
        """
        x = draw()
        for here, there in itertools.pairwise(self.times(num_steps)):
            share, next_share = self.shares[here].item(), self.shares[there].item()
            level = x.new_full((len(x),), share**0.5)
            image = (x - (1.0 - share) ** 0.5 * predict(x, level)) / share**0.5
            image = image.clamp(-1.0, 1.0)
            noise = (x - share**0.5 * image) / (1.0 - share) ** 0.5
            # Of the posterior of `there`, given the image and `here`.
            variance = eta**2 * (1.0 - next_share) / (1.0 - share) * (1.0 - share / next_share)
            x = next_share**0.5 * image + max(1.0 - next_share - variance, 0.0) ** 0.5 * noise
            if variance > 0.0:
                x = x + variance**0.5 * draw()
        return x


def noised(image: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """Images (B, C, S, S) at the levels (B,)."""
    level = level[:, None, None, None]
    return level * image + (1.0 - level.square()).sqrt() * noise
