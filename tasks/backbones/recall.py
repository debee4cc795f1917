"""The backbone of Zoology's recall tasks: two mixers without MLP between tied embeddings.

Source: Arora et al., "Zoology", ICLR 2024, arXiv:2312.04927, and its code, whose block is that of a
Transformer with the identity in the place of the MLP: the second norm stays, and is added.
Departs from them: the mixers keep their own initialisation (there N(0, 0.02)), and every mixer gets
the positions that are asked for (there, attention alone gets learned ones).

Shapes: B batch, N length, P read positions, E embed_dim, V vocabulary.
"""

from torch import Tensor, nn

from attentions.base import Pattern
from tasks.backbones.dropout import Dropout
from tasks.backbones.positions import Kind, Positions
from tasks.base import AttentionSlots


class RecallDecoder(nn.Module):
    """Embedding, then `num_layers` blocks, then norm and unembedding.

    A block is y = x + mixer(norm1(x)), then y + norm2(y).

    Args:
        slots: Give the causal self-attentions.
        vocab_size: V.
        seq_len: The greatest length.
        positions: See `Positions`.
        dropout: On the embedding.
        attention_dropout: Within the mixers.
        init_std: Of the embeddings.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        vocab_size: int,
        *,
        seq_len: int,
        embed_dim: int,
        num_layers: int = 2,
        num_heads: int = 1,
        positions: Kind = "learned",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        nn.init.normal_(self.tokens.weight, std=init_std)
        self.positions = Positions(positions, seq_len, embed_dim, init_std=init_std)
        self.dropout = Dropout(dropout)
        self.norms1 = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(num_layers))
        self.norms2 = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(num_layers))
        self.mixers = nn.ModuleList(
            slots.build(
                Pattern.CAUSAL_SELF,
                embed_dim=embed_dim,
                num_heads=num_heads,
                layer=layer,
                num_layers=num_layers,
                dropout=attention_dropout,
                max_len=seq_len,
            )
            for layer in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens: Tensor, read: Tensor) -> Tensor:
        """Logits after some of the positions.

        Args:
            tokens: (B, N).
            read: The positions to read at, int64 (B, P).

        Returns:
            (B, P, V).
        """
        x = self.dropout(self.positions(self.tokens(tokens)))
        for norm1, mixer, norm2 in zip(self.norms1, self.mixers, self.norms2, strict=True):
            x = x + mixer(norm1(x))
            x = x + norm2(x)
        # The vocabulary is wider than the model: unembed only what is read.
        x = x.gather(1, read[..., None].expand(-1, -1, x.shape[-1]))
        return self.norm(x) @ self.tokens.weight.T
