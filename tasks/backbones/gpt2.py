"""CAB's "GPT-2": a pre-norm decoder with sinusoidal positions and a tied embedding.

Source: Zhang et al., CAB, ICML 2023, which trains it with fairseq; Radford et al., "Language Models
are Unsupervised Multitask Learners", 2019, for its sizes. As in fairseq the embedding has unit
variance on the way in, and positions are sines and cosines, so that a longer text than any seen in
training has positions too.

Shapes: B batch, N length, E embed_dim, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Attention, Pattern
from tasks.backbones.dropout import Dropout
from tasks.backbones.positions import Kind, Positions
from tasks.base import AttentionSlots


class Layer(nn.Module):
    """Causal self-attention and feed-forward, each behind its norm and beside a residual."""

    def __init__(self, attention: Attention, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        embed_dim = attention.embed_dim
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.attention = attention
        self.ffn_norm = nn.LayerNorm(embed_dim)
        self.expand = nn.Linear(embed_dim, ffn_dim)
        self.contract = nn.Linear(ffn_dim, embed_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, E) to (B, N, E)."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.contract(F.gelu(self.expand(self.ffn_norm(x)))))


class Gpt2(nn.Module):
    """A language model between token numbers and logits.

    Args:
        slots: Give the causal self-attentions.
        vocab_size: V.
        max_len: The greatest length in training and evaluation, for the attentions.
        positions: See `Positions`; learned ones are drawn as GPT-2's, N(0, 0.02).
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
        positions: Kind = "sinusoidal",
        dropout: float = 0.0,
        attention_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        nn.init.normal_(self.tokens.weight, std=embed_dim**-0.5)
        self.positions = Positions(positions, max_len, embed_dim, init_std=0.02)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            Layer(attention, ffn_dim, dropout)
            for attention in slots.stack(
                Pattern.CAUSAL_SELF,
                num_layers,
                embed_dim=embed_dim,
                num_heads=num_heads,
                dropout=attention_dropout,
                max_len=max_len,
            )
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) to what `logits` takes (B, N, E).

        Raises:
            ValueError: If they are more than `max_len`.
        """
        scaled = self.tokens(tokens) * self.tokens.embedding_dim**0.5
        x = self.dropout(self.positions(scaled))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., E) to the logits of the next token (..., V)."""
        return hidden @ self.tokens.weight.T
