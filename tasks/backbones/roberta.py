"""RoBERTa: a post-norm encoder with learned positions, and a head that names masked tokens.

Source: Liu et al., "RoBERTa", 2019, arXiv:1907.11692, as fairseq has it, which CAB trained: tokens
and positions are added unscaled, then LayerNorm and dropout; the head is dense, GELU, LayerNorm,
and the embedding with a bias. Its weights are drawn from N(0, 0.02); the attentions draw their own.
Departs from it: no rows for the two positions that fairseq's padding takes.

Shapes: B batch, N length, E embed_dim, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern
from tasks.backbones.dropout import Dropout
from tasks.backbones.positions import Kind, Positions
from tasks.backbones.transformer import EncoderLayer
from tasks.base import AttentionSlots

INIT_STD = 0.02


class Head(nn.Module):
    """From encodings to the logits of tokens, with the embedding as its last map."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        embed_dim = embedding.embedding_dim
        self.dense = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.to_logits = nn.Linear(embed_dim, embedding.num_embeddings)
        self.to_logits.weight = embedding.weight

    def forward(self, encoded: Tensor) -> Tensor:
        """(..., E) to (..., V)."""
        return self.to_logits(self.norm(F.gelu(self.dense(encoded))))


class Roberta(nn.Module):
    """A masked language model between token numbers and logits.

    Args:
        slots: Give the noncausal self-attentions.
        vocab_size: V.
        max_len: The greatest length.
        positions: See `Positions`.
        dropout: On the embedding and on each residual branch.
        attention_dropout: Within the attentions.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        vocab_size: int,
        *,
        max_len: int,
        embed_dim: int = 768,
        num_heads: int = 12,
        ffn_dim: int = 3072,
        num_layers: int = 12,
        positions: Kind = "learned",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        self.positions = Positions(positions, max_len, embed_dim, init_std=INIT_STD)
        self.norm = nn.LayerNorm(embed_dim)
        self.dropout = Dropout(dropout)
        layers = [
            EncoderLayer(attention, ffn_dim, dropout)
            for attention in slots.stack(
                Pattern.NONCAUSAL_SELF,
                num_layers,
                embed_dim=embed_dim,
                num_heads=num_heads,
                dropout=attention_dropout,
                max_len=max_len,
            )
        ]
        self.layers = nn.ModuleList(layers)
        self.logits = Head(self.tokens)
        own: list[nn.Embedding | nn.Linear] = [self.tokens, self.logits.dense]
        for layer in layers:
            own += [layer.feed_forward.expand, layer.feed_forward.contract]
        for module in own:
            nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.logits.to_logits.bias)

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """Encode tokens, for `logits`.

        Args:
            tokens: Token numbers (B, N).
            padding: Bool (B, N), True for padding.

        Returns:
            Encodings (B, N, E).

        Raises:
            ValueError: If they are more than `max_len`.
        """
        x = self.dropout(self.norm(self.positions(self.tokens(tokens))))
        for layer in self.layers:
            x = layer(x, padding)
        return x
