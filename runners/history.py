"""What a training run went through: times, memory, validations, and whether it diverged."""

import math
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm

from runners import ranks
from runners.run import Diverged

RANK_SEEDS = 2_654_435_761
"""The distance of the seeds of two ranks. Odd, as torch takes 32 bits of a seed on the CPU."""
CHECK_EVERY = 100
"""Steps between two looks at whether the run has diverged: a look waits for the device."""


class History(Callback):
    """Seeds each epoch, times it, and keeps the validation metrics; all survive a resume.

    Args:
        seed: Of the run.
        metrics: The names to keep.
    """

    def __init__(self, seed: int, metrics: frozenset[str]) -> None:
        self.seed = seed
        self.metrics = metrics
        self.step_times_s: list[float] = []
        self.peak_bytes = 0
        self.validations: list[dict[str, float]] = []
        self._start = (0, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        kept = ("step_times_s", "peak_bytes", "validations")
        return {name: getattr(self, name) for name in kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        vars(self).update(state_dict)

    def best(self, metric: str, direction: str) -> dict[str, float] | None:
        """The validation with the best value, the first of equals; None before the first.

        Raises:
            ValueError: If the metric is not one of the validation.
        """
        choose = max if direction == "higher" else min
        for row in self.validations:
            if metric not in row:
                known = ", ".join(sorted(row.keys() - {"step"}))
                raise ValueError(f"task.fit.monitor: no validation metric {metric!r}, has: {known}")
        return choose(self.validations, key=lambda row: row[metric], default=None)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Dropout and the like then depend on (seed, epoch) alone, not on earlier epochs."""
        self.reseed(trainer.current_epoch)
        self._begin(trainer, pl_module)

    def reseed(self, epoch: int) -> None:
        """Fix the global generator of random numbers by (seed, epoch), on each rank another."""
        torch.manual_seed(self.seed * 1_000_003 + epoch + ranks.rank() * RANK_SEEDS)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch without a validation at its end ends here."""
        self._end(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training part ends where validation begins."""
        if trainer.state.fn == "fit":
            self._end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metrics.

        Raises:
            Diverged: If one of them is no finite number.
        """
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if k in self.metrics}
        check_finite(found, f"validation after step {trainer.global_step}")
        if found:  # a stage of training without scores selects nothing
            self.validations.append({"step": trainer.global_step} | found)
        self._begin(trainer, pl_module)  # more training may follow in the same epoch

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        if module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(module.device)
        self._start = (trainer.global_step, _now(module))

    def _end(self, trainer: Trainer, module: LightningModule) -> None:
        step, start = self._start
        num_steps = trainer.global_step - step
        if num_steps <= 0:
            return
        self.step_times_s.append((_now(module) - start) / num_steps)
        if module.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(module.device)
            self.peak_bytes = max(self.peak_bytes, peak)
        self._start = (trainer.global_step, _now(module))


def _now(module: LightningModule) -> float:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()


def check_finite(found: dict[str, float], when: str) -> None:
    """Raise Diverged if a metric is NaN or infinite."""
    for metric, value in found.items():
        if not math.isfinite(value):
            raise Diverged(f"diverged: {metric} is {value} in the {when}")


class Divergence(Callback):
    """Ends a run whose loss or weights become NaN or infinite, and names the first such step.

    The device keeps the step by itself: it is waited for now and then only. Gradients are not
    looked at: with mixed precision an update with infinite ones is left out by design.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None  # first step of a bad loss, of bad weights; 0 for none
        self._seen = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is bad yet; a checkpoint is only written after a look."""
        self._first = torch.zeros(2, dtype=torch.int64, device=pl_module.device)
        self._seen = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note what is bad."""
        is_update = trainer.global_step > self._seen
        step = self._seen + 1
        zero = outputs["loss"].detach().float() * 0  # NaN where the loss is not finite
        weights = torch.zeros_like(zero)
        if is_update:
            # The greatest of all: unlike a sum of squares it is infinite only if a weight is.
            greatest = get_total_norm(pl_module.parameters(), norm_type=math.inf)
            weights = greatest.to(zero) * 0
        is_bad = torch.stack([zero, weights]).isnan()
        assert self._first is not None
        self._first = torch.where(is_bad & (self._first == 0), step, self._first)
        self._seen = trainer.global_step
        if is_update and step % CHECK_EVERY == 0:
            self._look()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is validated, and no checkpoint written, after a bad step."""
        self._look()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """There may be no validation."""
        self._look()

    def _look(self) -> None:
        first = [0, 0] if self._first is None else self._first.tolist()
        for step, what in sorted(zip(first, ("loss", "weights"), strict=True)):
            if step:
                raise Diverged(f"diverged: the {what} became NaN or infinite in step {step}")
