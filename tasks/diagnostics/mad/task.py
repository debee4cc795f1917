"""MAD's tasks: two blocks of mixer and SwiGLU that recall, copy, compress or memorise.

Source: Poli et al., "Mechanistic Design and Scaling of Hybrid Architectures", ICML 2024,
arXiv:2403.17844, and its code.
Departs from them: the checkpoint is selected on validation rows (there the best test accuracy of
training); the mixers keep their own initialisation; see `tasks.diagnostics.mad.generate` for rows.
In: tokens (B, N). Out: the token asked for at each of P positions. Scores: `accuracy` over the
answers of an example, then over the examples; `macro_accuracy`, which MAD reports, over the answers
of each token, then over the tokens.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from tasks.backbones.positions import sinusoids
from tasks.backbones.recall import RecallModel, normalisation
from tasks.base import AttentionSlots
from tasks.diagnostics.answers import Answering, Batch
from tasks.rules.answers import IGNORED


class Mad(Answering):
    """Recall, copying and memorization: each answer is read where it is asked for."""

    directions: ClassVar = {"accuracy": "higher", "macro_accuracy": "higher"}
    backbone = "MAD"

    def __init__(self, slots: AttentionSlots, *, vocab_size: int, **settings: Any) -> None:
        super().__init__(slots, vocab_size=vocab_size, **settings)
        self.macro_accuracy = MulticlassAccuracy(vocab_size, ignore_index=IGNORED)

    def count(self, batch: Batch, predicted: Tensor) -> Tensor:
        """See `Answering.count`; by token too."""
        self.macro_accuracy.update(predicted, batch.answers)
        self.log("macro_accuracy", self.macro_accuracy, on_step=False, on_epoch=True)
        return super().count(batch, predicted)


class AutoEncoder(nn.Module):
    """The last position of a `RecallModel`, from which every token is decoded by its place.

    Args:
        slots: Give the attentions.
        vocab_size: V.
        seq_len: N.
        embed_dim: E.
        **sizes: Of the `RecallModel`.
    """

    codes: Tensor

    def __init__(
        self, slots: AttentionSlots, vocab_size: int, *, seq_len: int, embed_dim: int, **sizes: Any
    ) -> None:
        super().__init__()
        self.encoder = RecallModel(slots, vocab_size, seq_len=seq_len, embed_dim=embed_dim, **sizes)
        self.register_buffer("codes", sinusoids(seq_len, embed_dim), persistent=False)
        layers = []
        for _ in range(2):
            layers += [normalisation("rms", embed_dim), nn.Linear(embed_dim, embed_dim), nn.GELU()]
        self.decoder = nn.Sequential(*layers)

    def forward(self, tokens: Tensor, read: Tensor, context: Tensor | None = None) -> Tensor:
        """Logits (B, P, V) of the tokens (B, N) at the positions (B, P)."""
        last = torch.full_like(read[:, :1], tokens.shape[1] - 1)
        summary = self.encoder.hidden(tokens, last, context)
        return self.encoder.logits(self.decoder(summary + self.codes[read].to(summary.dtype)))


class Compression(Mad):
    """The whole input is read from one vector."""

    network_of: ClassVar = AutoEncoder
