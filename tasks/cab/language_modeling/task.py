"""Language modelling of books, CAB's LM: GPT-2 on PG-19.

Source: Zhang et al., CAB, ICML 2023; Rae et al., "Compressive Transformers", ICLR 2020.
Departs from CAB: the line breaks of the text and one mark at the end of each book are tokens, no
further ones at the ends of lines (unless `line_marks` asks for CAB's); the tokenizer is trained on
the training books by default; bits per byte, which do not depend on the tokenizer, stand beside the
perplexity; the first token of a split is read and not predicted, and a last, shorter training block
is left out; and see `tasks.cab.language_modeling.data` for the scores of other lengths than the
training length.
In: tokens (B, N). Out: logits of the next token (B, N, V). Scores: over tokens, not over batches.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern
from tasks.backbones.gpt2 import Gpt2
from tasks.base import AttentionSlots, Task
from tasks.cab.language_modeling.data import IGNORED, Batch
from tasks.metrics.perplexity import Perplexity

INITIAL_LR = 1e-7
"""Where the warm-up begins."""
TOKENS_AT_ONCE = 2048
"""Whose logits are there together in evaluation."""


class LanguageModeling(Task):
    """Predict each next token, trained on cross-entropy.

    Args:
        slots: Give the attentions.
        seq_len: Tokens of a block.
        context_lens: The lengths that the test data come in after the blocks, in sliding windows.
        cold_lens: Those that come last, in blocks of their own.
        bytes_per_token: Of the test data.
        lr: Of AdamW at the end of the warm-up.
        warmup_steps: Optimizer steps of linear warm-up, before the inverse square root.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        **sizes: Of `Gpt2`.
    """

    patterns = frozenset({Pattern.CAUSAL_SELF})
    directions: ClassVar = {"perplexity": "lower", "bits_per_byte": "lower"}
    backbone = "GPT-2"

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        seq_len: int,
        context_lens: Sequence[int],
        cold_lens: Sequence[int] = (),
        bytes_per_token: float,
        lr: float,
        warmup_steps: int,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        **sizes: Any,
    ) -> None:
        super().__init__(slots)
        if warmup_steps < 1:
            raise ValueError(f"warmup_steps must be positive, got {warmup_steps}")
        max_len = max([seq_len, *context_lens, *cold_lens])
        self.model = Gpt2(slots, max_len=max_len, **sizes)
        self.perplexity = Perplexity()
        self.context_lens, self.cold_lens = list(context_lens), list(cold_lens)
        self.by_length = nn.ModuleList(Perplexity() for _ in [*context_lens, *cold_lens])
        self.bytes_per_token = bytes_per_token
        self.lr, self.warmup_steps = lr, warmup_steps
        self.betas, self.weight_decay = betas, weight_decay

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Cross-entropy in nats."""
        logits = self.model.logits(self.model(batch.tokens)).float()
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        return loss, batch.targets.numel()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the tokens of blocks."""
        self.perplexity.update(*self._nll(batch))
        self.log("perplexity", self.perplexity, on_step=False, on_epoch=True)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count the tokens of blocks, and then those of each further length."""
        if dataloader_idx:
            self._by_length()[dataloader_idx - 1].update(*self._nll(batch))
            return
        self.perplexity.update(*self._nll(batch))
        self.log(
            "perplexity", self.perplexity, on_step=False, on_epoch=True, add_dataloader_idx=False
        )

    def on_test_epoch_end(self) -> None:
        """Free the perplexity from the tokenizer."""
        bits_per_token = self.perplexity.compute().log2()
        self.log("bits_per_byte", bits_per_token / self.bytes_per_token)

    def measure(self) -> list[dict[str, Any]]:
        """The test perplexity of each further length."""
        lengths = [*self.context_lens, *self.cold_lens]
        measured = []
        for i, (length, metric) in enumerate(zip(lengths, self._by_length(), strict=True)):
            count = int(metric.count)
            name = "perplexity"
            comment = f"sliding window, {count} tokens, the same for all context lengths"
            if i >= len(self.context_lens):
                name = "block_perplexity"
                comment = f"blocks without carried context, {count} tokens, as in CAB's figure"
            measured.append(
                {
                    "metric": name,
                    "value": float(metric.compute()),
                    "direction": "lower",
                    "split": "test",
                    "seq_len": length,
                    "comment": comment,
                }
            )
        return measured

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        for metric in self._by_length():
            metric.reset()

    def configure_optimizers(self) -> Any:
        """AdamW, as fairseq's Adam, whose decay is decoupled from the gradient too."""
        optimizer = torch.optim.AdamW(
            self.parameter_groups(self.lr),
            lr=self.lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
            fused=True,  # without, 200 small parameters are visited one by one
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._schedule)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _schedule(self, step: int) -> float:
        """The share of `lr`: linear warm-up, then the inverse square root of the step."""
        if step < self.warmup_steps:
            start = INITIAL_LR / self.lr
            return start + (1 - start) * step / self.warmup_steps
        return math.sqrt(self.warmup_steps / step)

    def _nll(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the negative log-likelihoods of the targets (nats), and their number."""
        hidden = self.model(batch.tokens)[:, -batch.targets.shape[1] :]
        pieces = zip(
            hidden.flatten(0, 1).split(TOKENS_AT_ONCE),
            batch.targets.flatten().split(TOKENS_AT_ONCE),
            strict=True,
        )
        # Summed in float64: one addend of a float32 sum would lose digits to the others.
        nll = [
            F.cross_entropy(self.model.logits(h).float(), t, ignore_index=IGNORED, reduction="none")
            for h, t in pieces
        ]
        return torch.cat(nll).double().sum(), (batch.targets != IGNORED).sum()

    def _by_length(self) -> list[Perplexity]:
        return list(cast(Iterable[Perplexity], self.by_length))
