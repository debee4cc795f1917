"""Summarisation of several news articles at once, CAB's Sum: Transformer on Multi-News.

Source: Zhang et al., CAB, ICML 2023, arXiv:2210.07661; Fabbri et al., "Multi-News", ACL 2019.
Departs from CAB: scores the likelihood too (`nll`), as ROUGE of greedy summaries partly measures
how they degenerate, and can search by beams; writes no `<s>` and no `<pad>`, which ParaGen does not
forbid; the ROUGE of `tasks.cab.summarization.rouge`; where an update takes several batches, each
token of them counts alike, as in fairseq (ParaGen averages the means of the batches, and drops the
last, shorter update of an epoch).
In: a document (B, N). Out: logits of its summary (B, M, V), or a summary written token by token.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from attentions.base import Pattern
from tasks.backbones.transformer import Transformer
from tasks.base import AttentionSlots, Task
from tasks.cab.summarization.documents import IGNORED, Batch, mark_numbers
from tasks.cab.summarization.rouge import METRICS, rouge_f1
from tasks.decoding import Limits, beam_search, greedy_search
from tasks.metrics.mean import Mean, Means

NUM_SAMPLES = 4
"""Summaries to read, of the first test rows."""


class Summarization(Task):
    """Say the summary of a document, trained on label-smoothed cross-entropy.

    Logs `nll`, the mean negative log-likelihood of a token of the reference (nats, not smoothed).
    ROUGE is that of the summaries that it writes, in `predict_step`.

    Args:
        slots: Give the attentions.
        tokenizer: Of the data; has the marks `<s>`, `<pad>` and `</s>`.
        max_source_len: Of the data.
        max_target_len: Of the data.
        lr: Of AdamW at the end of the warm-up.
        warmup_steps: Optimizer steps of linear warm-up, before the inverse square root.
        betas: Of AdamW.
        eps: Of AdamW.
        weight_decay: Of AdamW.
        label_smoothing: Share of the target probability that goes to all tokens alike.
        min_summary_len: Least tokens of a written summary.
        max_summary_len: Most tokens of a written summary, with its `</s>`.
        num_beams: 1 writes greedily.
        length_penalty: Of beam search.
        **sizes: Of the `Transformer`.

    Raises:
        ValueError: If summaries may become longer than `max_target_len`.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS})
    directions: ClassVar = {"nll": "lower", **dict.fromkeys(METRICS, "higher")}
    backbone = "Transformer"

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        tokenizer: Tokenizer,
        max_source_len: int,
        max_target_len: int,
        lr: float,
        warmup_steps: int,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        label_smoothing: float = 0.1,
        min_summary_len: int = 200,
        max_summary_len: int = 400,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        **sizes: Any,
    ) -> None:
        super().__init__(slots)
        if max_summary_len > max_target_len:
            raise ValueError(
                f"max_summary_len must be at most max_target_len = {max_target_len}, the decoder's "
                f"positions, got {max_summary_len}"
            )
        self.transformer = Transformer(
            slots,
            tokenizer.get_vocab_size(),
            max_source_len=max_source_len,
            max_target_len=max_target_len,
            **sizes,
        )
        self.tokenizer = tokenizer
        self.begin, pad, end = mark_numbers(tokenizer)
        self.limits = Limits(end, pad, max_summary_len, min_summary_len, never=(self.begin,))
        self.num_beams = num_beams
        self.length_penalty = length_penalty
        self.label_smoothing = label_smoothing
        self.warmup_steps = warmup_steps
        self.optimizer_settings = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
        }
        self.nll = Mean()
        self.rouge = Means(METRICS)
        self.samples: list[tuple[str, str]] = []

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Label-smoothed cross-entropy, the mean over the tokens of the batch."""
        loss = F.cross_entropy(
            self._logits(batch),
            batch.labels,
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
        )
        return loss, (batch.labels != IGNORED).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the likelihood of each token."""
        nll = F.cross_entropy(
            self._logits(batch), batch.labels, ignore_index=IGNORED, reduction="none"
        )
        self.nll.update(nll.double().sum(), (batch.labels != IGNORED).sum())
        self.log("nll", self.nll, on_step=False, on_epoch=True)

    test_step = validation_step

    def on_predict_epoch_start(self) -> None:
        """Forget what was written before."""
        self.samples.clear()
        self.rouge.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Score what is written."""
        for written, reference in zip(self.summarize(batch), batch.summaries, strict=True):
            if len(self.samples) < NUM_SAMPLES:
                self.samples.append((written, reference))
            for name, f1 in rouge_f1(written, reference).items():
                self.rouge[name].update(f1, 1)

    def measure(self) -> list[dict[str, Any]]:
        """ROUGE of what was written."""
        return self.rouge.measured(self.directions)

    def write_samples(self, folder: Path) -> None:
        """The summaries of the first test rows, each below its reference."""
        texts = [
            f"{number}. Reference\n\n{reference}\n\n{number}. Written\n\n{written}\n"
            for number, (written, reference) in enumerate(self.samples, start=1)
        ]
        (folder / "summaries.txt").write_text("\n".join(texts), encoding="utf-8")

    def summarize(self, batch: Batch) -> list[str]:
        """The summaries that are written for the documents of a batch."""
        model = self.transformer
        prompt = torch.full_like(batch.source[:, :1], self.begin)
        logits, state = model.prefill(prompt, model.init_state(batch.source, batch.source_padding))
        if self.num_beams == 1:
            written = greedy_search(model.step, logits, state, self.limits)
        else:
            written = beam_search(
                model.step,
                logits,
                state,
                self.limits,
                num_beams=self.num_beams,
                length_penalty=self.length_penalty,
            )
        return self.tokenizer.decode_batch(written.tokens.tolist(), skip_special_tokens=True)

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up, then the inverse square root of the step."""
        settings = self.optimizer_settings
        groups = self.parameter_groups(settings["lr"])
        optimizer = torch.optim.AdamW(groups, fused=True, **settings)
        warmup = self.warmup_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (warmup / (step + 1)) ** 0.5)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _logits(self, batch: Batch) -> Tensor:
        """(B, V, M), as cross-entropy takes them."""
        logits = self.transformer(
            batch.source, batch.target, batch.source_padding, batch.target_padding
        )
        return logits.float().mT
