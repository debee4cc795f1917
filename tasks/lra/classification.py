"""Long Range Arena: name the class of a long sequence, or whether two documents belong together.

Source: Tay et al., "Long Range Arena", ICLR 2021, arXiv:2011.04006, and its code; the schedule
`one_cycle` is that of Xiong et al., "Nyströmformer", AAAI 2021, arXiv:2102.03902; the pretraining
that of Amos, Berant and Gupta, "Never Train from Scratch", ICLR 2024, arXiv:2310.02980.
Departs from them: see `tasks.backbones.lra`; gradients of the pretraining are of cross-entropy in
images too, and its learning rates are those of the fine-tuning.
In: tokens (B, N), or (B, 2, N). Out: logits of the classes (B, C). Scores: accuracy over examples.
"""

import math
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Pattern
from tasks.backbones.lra import LraEncoder
from tasks.base import AttentionSlots, Task
from tasks.lra.batch import Batch
from tasks.metrics.mean import Mean

Schedule = Literal["rsqrt", "cosine", "one_cycle"]


class Classification(Task):
    """Cross-entropy of the classes, where wanted after a pretraining on the same inputs.

    The pretraining predicts tokens behind masks. It is the first part of the one run, cut at a
    step: the network goes on, with a fresh schedule and a fresh optimizer. What is validated during
    the pretraining selects no weights.

    Args:
        slots: Give the attentions.
        lr: The greatest learning rate; with `rsqrt`, LRA's factor before 1 / sqrt(step).
        schedule: Of the learning rate; see `rate`.
        warmup_steps: In which it rises.
        max_steps: Updates in all, the pretraining included, for which the schedule is made.
        pretrain_steps: Updates of the pretraining; 0 for none.
        mask_ratio: The share of the tokens that it masks.
        betas: Of AdamW. With `one_cycle` the first moves from 0.95 to 0.85, where the rate is
            greatest, and back, as torch's OneCycleLR does it unasked.
        eps: Of AdamW.
        weight_decay: Of AdamW.
        **sizes: Of the `LraEncoder`.

    Raises:
        ValueError: If there is no such schedule, or the steps do not fit into each other.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF})
    directions: ClassVar = {"accuracy": "higher"}
    backbone = "LRA"

    train_counts: Tensor
    masked_counts: Tensor
    _counting: Tensor

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        lr: float,
        schedule: Schedule,
        warmup_steps: int,
        max_steps: int,
        pretrain_steps: int = 0,
        mask_ratio: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-9,
        weight_decay: float = 0.0,
        **sizes: Any,
    ) -> None:
        super().__init__(slots)
        if schedule not in get_args(Schedule):
            raise ValueError(f"schedule must be one of {get_args(Schedule)}, got {schedule!r}")
        if not 0 <= pretrain_steps < max_steps:
            raise ValueError(
                "pretrain_steps must be at least 0 and below max_steps, which counts them: "
                f"got {pretrain_steps} of {max_steps}"
            )
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio must be in (0, 1), got {mask_ratio}")
        self.classify = LraEncoder(slots, **sizes, masks=pretrain_steps > 0)
        self.accuracy = Mean()
        self.schedule: Schedule = schedule
        self.lr, self.warmup_steps = lr, warmup_steps
        self.max_steps, self.pretrain_steps = max_steps, pretrain_steps
        self.mask_ratio = mask_ratio
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        # Right ones, and all. They are saved with the weights, which a score belongs to.
        for name in ("train_counts", "masked_counts", "_counting"):
            self.register_buffer(name, torch.zeros(2, dtype=torch.int64))

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor | int]:
        """Cross-entropy of the classes, or of the tokens behind masks."""
        if self._step() < self.pretrain_steps:
            masked = self._masks(batch)
            logits = self.classify.unmask(batch.tokens, batch.is_padding, masked).float()
            count = masked.sum()
            total = F.cross_entropy(logits, batch.tokens[masked], reduction="sum")
            return total / count.clamp(min=1), count
        logits = self.classify(batch.tokens, batch.is_padding).float()
        self._counting += _counts(logits, batch.labels)
        return F.cross_entropy(logits, batch.labels), len(batch.labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count what is right; before the fine-tuning, behind masks that are always the same."""
        if self._is_pretraining():
            generator = torch.Generator(self.device).manual_seed(batch_idx)
            masked = self._masks(batch, generator)
            logits = self.classify.unmask(batch.tokens, batch.is_padding, masked)
            self.masked_counts += _counts(logits, batch.tokens[masked])
        else:
            self.test_step(batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count what is right."""
        right, total = _counts(self.classify(batch.tokens, batch.is_padding), batch.labels)
        self.accuracy.update(right, total)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)

    def on_validation_epoch_start(self) -> None:
        """Forget what an earlier validation counted behind masks."""
        if self._is_pretraining():
            self.masked_counts.zero_()

    def on_validation_epoch_end(self) -> None:
        """Close the count of the training rows since the last validation."""
        self.train_counts.copy_(self._counting)
        self._counting.zero_()

    def measure(self) -> list[dict[str, Any]]:
        """The accuracy in training, and that behind masks at the end of the pretraining."""
        found = [
            ("train_accuracy", "train", "in training, since the validation before", "train_counts"),
            ("masked_accuracy", "validation", "at the end of the pretraining", "masked_counts"),
        ]
        rows = []
        for metric, split, comment, name in found:
            right, total = getattr(self, name).tolist()
            if total:
                row = {"metric": metric, "value": right / total, "direction": "higher"}
                rows.append({**row, "split": split, "comment": comment})
        return rows

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Begin the fine-tuning with a fresh optimizer, and move its betas where they move."""
        optimizer = self.trainer.optimizers[0]
        if self.pretrain_steps and self._step() == self.pretrain_steps:
            optimizer.state.clear()
        if self.schedule == "one_cycle":
            _, span, step = self._stage(self._step())
            height = _triangle(step, self.warmup_steps, span)
            for group in optimizer.param_groups:
                group["betas"] = (0.95 - 0.1 * height, self.betas[1])

    def configure_optimizers(self) -> Any:
        """AdamW, with a schedule for each part of the run."""
        peak = self.lr
        if self.schedule == "rsqrt":
            peak /= math.sqrt(self.warmup_steps)
        optimizer = torch.optim.AdamW(
            self.parameter_groups(peak),
            lr=peak,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )

        def factor(step: int) -> float:
            _, span, within = self._stage(step)
            return rate(self.schedule, within, self.warmup_steps, span)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _step(self) -> int:
        """How many updates there were; without a trainer it is one of the fine-tuning."""
        return self.pretrain_steps if self._trainer is None else self._trainer.global_step

    def _is_pretraining(self) -> bool:
        """Whether the weights have not been fine-tuned at all."""
        return 0 < self.pretrain_steps >= self._step()

    def _stage(self, step: int) -> tuple[int, int, int]:
        """The first step of the part that `step` is in, the steps of that part, and those since."""
        if step < self.pretrain_steps:
            return 0, self.pretrain_steps, step
        start = self.pretrain_steps
        return start, self.max_steps - start, step - start

    def _masks(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Which tokens to mask: each with the same probability, and no padding."""
        drawn = torch.rand(batch.tokens.shape, device=batch.tokens.device, generator=generator)
        return (drawn < self.mask_ratio) & ~batch.is_padding


def _counts(logits: Tensor, labels: Tensor) -> Tensor:
    """How many are right, and of how many, int64 (2,)."""
    right = (logits.argmax(dim=-1) == labels).sum()
    return torch.stack([right, torch.full_like(right, labels.numel())])


def rate(schedule: Schedule, step: int, warmup_steps: int, num_steps: int) -> float:
    """The learning rate before update `step` (from 0) of `num_steps`, as a share of the greatest.

    - rsqrt: LRA's `constant * linear_warmup * rsqrt_decay`, greatest at `warmup_steps`.
    - cosine: LRA's `constant * linear_warmup * cosine_decay`, whose cycle is as long as the run and
      begins after the warm-up, so that it is not finished.
    - one_cycle: OneCycleLR of torch with straight lines, from 1/25 up, and down to 1/250,000.
    """
    step = min(step, num_steps)
    if schedule == "one_cycle":
        height = _triangle(step, warmup_steps, num_steps)
        floor = 1 / 25 if step < warmup_steps else 1 / 250_000
        return floor + (1 - floor) * height
    rising = min(1.0, step / warmup_steps)
    if schedule == "rsqrt":
        return rising * math.sqrt(warmup_steps / max(step, warmup_steps))
    progress = max(0, step - warmup_steps) / num_steps
    return rising * 0.5 * (1 + math.cos(math.pi * progress))


def _triangle(step: int, warmup_steps: int, num_steps: int) -> float:
    """From 0 up to 1 at the last step of the warm-up, and down to 0 at the last of all."""
    top = warmup_steps - 1
    if step < top:
        return step / top
    return max(0.0, 1 - (step - top) / max(num_steps - 1 - top, 1))
