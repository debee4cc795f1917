"""Masked language modelling of books, CAB's MLM: RoBERTa-base on PG-19.

Source: Zhang et al., CAB, ICML 2023; Liu et al., "RoBERTa", 2019; trained as by fairseq.
Departs from CAB: scores the test rows; CAB's number, of the validation rows, stands beside it, of
the same checkpoint. The line breaks of the text are tokens of it (unless `line_marks` asks for
CAB's symbols), the tokenizer is trained on the training books by default, no first step is taken
at a rate of 0, as fairseq's warm-up has it, and see
`tasks.cab.masked_language_modeling.data` and `tasks.backbones.roberta`.
In: tokens (B, N), some masked. Out: logits of those (K, V). Scores: over masked tokens.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Pattern
from tasks.backbones.roberta import Roberta
from tasks.base import AttentionSlots, Task
from tasks.cab.masked_language_modeling.data import IGNORED, Batch
from tasks.metrics.perplexity import Perplexity


class MaskedLanguageModeling(Task):
    """Name the masked tokens, trained on cross-entropy.

    Args:
        slots: Give the attentions.
        seq_len: The greatest length of a block.
        lr: Of AdamW at the end of the warm-up.
        warmup_steps: Optimizer steps of linear warm-up.
        total_steps: Optimizer steps after which the rate, falling linearly, is 0 again.
        betas: Of AdamW.
        eps: Of AdamW.
        weight_decay: Of AdamW.
        **sizes: Of `Roberta`.

    Raises:
        ValueError: If the rate does not fall after the warm-up.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF})
    directions: ClassVar = {"perplexity": "lower"}
    backbone = "RoBERTa-base"

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        seq_len: int,
        lr: float,
        warmup_steps: int,
        total_steps: int,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        **sizes: Any,
    ) -> None:
        super().__init__(slots)
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"0 <= warmup_steps < total_steps is needed, got {warmup_steps} and {total_steps}"
            )
        self.model = Roberta(slots, max_len=seq_len, **sizes)
        self.perplexity = Perplexity()
        self.validation_perplexity = Perplexity()
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.optimizer_settings = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
        }

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Cross-entropy of the masked tokens, in nats."""
        nll = self._nll(batch)
        return nll.mean(), len(nll)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the masked tokens."""
        self._count(self.perplexity, batch)
        self.log("perplexity", self.perplexity, on_step=False, on_epoch=True)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count the masked tokens of the test rows, and then those of the validation rows."""
        if dataloader_idx:
            self._count(self.validation_perplexity, batch)
            return
        self._count(self.perplexity, batch)
        self.log(
            "perplexity", self.perplexity, on_step=False, on_epoch=True, add_dataloader_idx=False
        )

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self.validation_perplexity.reset()

    def measure(self) -> list[dict[str, Any]]:
        """The perplexity of the validation rows, CAB's number, of what was tested."""
        return [
            {
                "metric": "perplexity",
                "value": float(self.validation_perplexity.compute()),
                "direction": "lower",
                "split": "validation",
                "comment": "of the tested checkpoint; CAB's number",
            }
        ]

    def configure_optimizers(self) -> Any:
        """AdamW, as fairseq's Adam, whose decay is decoupled from the gradient too."""
        settings = self.optimizer_settings
        groups = self.parameter_groups(settings["lr"])
        optimizer = torch.optim.AdamW(groups, fused=True, **settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._schedule)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _schedule(self, step: int) -> float:
        """The share of `lr`: linear warm-up, then linear decay."""
        left = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        return max(0.0, min((step + 1) / max(self.warmup_steps, 1), left, 1.0))

    def _count(self, metric: Perplexity, batch: Batch) -> None:
        # Summed in float64: one addend of a float32 sum would lose digits to the others.
        nll = self._nll(batch).double()
        metric.update(nll.sum(), nll.numel())

    def _nll(self, batch: Batch) -> Tensor:
        """The negative log-likelihood of each masked token (nats)."""
        is_asked = batch.targets != IGNORED
        logits = self.model.logits(self.model(batch.tokens, batch.padding)[is_asked])
        return F.cross_entropy(logits.float(), batch.targets[is_asked], reduction="none")
