"""Long Range Arena's encoder: token ids of one sequence, or of two documents, to classes.

Source: Tay et al., "Long Range Arena", ICLR 2021, arXiv:2011.04006, and its code.
Departs from them: the width of queries, keys and values is `embed_dim` (there half of it in the
image tasks), and the projections of a mechanism have its own initial values and biases. What is a
flaw there is only done with `protocol="lra2020"`:
- the mean runs over padding too;
- the CLS vector is padding where the first token is;
- of two documents the first byte is read in place of a CLS vector;
- the vectors X, Y of two documents are joined as [X, Y], not as [X, Y, X * Y, X - Y].
A query that is padding sees there every position alike, and here what the others see: this reaches
the result only where padding is pooled.

Shapes: B batch, L documents in a row, N length, E embed_dim, V vocabulary.
"""

from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attentions.base import Pattern
from tasks.backbones.dropout import Dropout
from tasks.backbones.positions import Kind, Positions
from tasks.base import AttentionSlots

Pooling = Literal["cls", "mean", "max"]
Protocol = Literal["fixed", "lra2020"]


class LraEncoder(nn.Module):
    """Embedding, pre-norm blocks, norm, pooling, and a head of one hidden layer, two for documents.

    Args:
        slots: Give the noncausal self-attentions.
        vocab_size: V.
        num_classes: Of the head.
        max_len: N.
        num_documents: L, 1 or 2. Both documents go through the one encoder.
        grid: (height, width) of images, which have no padding.
        mlp_dim: Hidden width of the blocks and of the head.
        pooling: The state at a learned CLS vector, or the mean or maximum over the tokens.
        positions: See `Positions`.
        embedding_std: Of the initial embeddings.
        dropout: On the embedding, and within and behind the parts of a block.
        attention_dropout: Within the attentions.
        protocol: `lra2020` for the flaws that are named above.
        masks: Whether it can also be asked for the tokens behind masks.

    Raises:
        ValueError: If there is no such pooling or protocol, or no such number of documents.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        vocab_size: int,
        *,
        num_classes: int,
        max_len: int,
        num_documents: int = 1,
        grid: tuple[int, int] | None = None,
        embed_dim: int,
        mlp_dim: int,
        num_layers: int,
        num_heads: int,
        pooling: Pooling = "cls",
        positions: Kind = "interleaved",
        embedding_std: float = 1.0,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        protocol: Protocol = "fixed",
        masks: bool = False,
    ) -> None:
        super().__init__()
        for name, value, kind in (("pooling", pooling, Pooling), ("protocol", protocol, Protocol)):
            if value not in get_args(kind):
                raise ValueError(f"{name} must be one of {get_args(kind)}, got {value!r}")
        if num_documents not in (1, 2):
            raise ValueError(f"num_documents must be 1 or 2, got {num_documents}")
        self.num_documents, self.pooling, self.protocol = num_documents, pooling, protocol
        self.has_padding = grid is None or protocol == "lra2020"
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        nn.init.normal_(self.tokens.weight, std=embedding_std)
        self.cls = None
        if pooling == "cls" and (num_documents == 1 or protocol == "fixed"):
            self.cls = nn.Parameter(torch.zeros(embed_dim))
            max_len, grid = max_len + 1, None  # with a vector before them, pixels are no grid
        self.positions = Positions(positions, max_len, embed_dim, init_std=0.02)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(attention, embed_dim, mlp_dim, dropout)
            for attention in slots.stack(
                Pattern.NONCAUSAL_SELF,
                num_layers,
                embed_dim=embed_dim,
                num_heads=num_heads,
                dropout=attention_dropout,
                max_len=max_len,
                grid=grid,
            )
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        widths = [embed_dim, mlp_dim, num_classes]
        if num_documents == 2:
            joined = 2 if protocol == "lra2020" else 4
            widths = [joined * embed_dim, mlp_dim, mlp_dim // 2, num_classes]
        self.head = _head(widths)
        if masks:
            self.mask = nn.Parameter(torch.zeros(embed_dim))
            self.unembed = nn.Linear(embed_dim, vocab_size)
            _init_dense(self.unembed)

    def forward(self, tokens: Tensor, is_padding: Tensor) -> Tensor:
        """Logits of the classes.

        Args:
            tokens: (B, N), or (B, 2, N) of two documents.
            is_padding: Bool of the same shape.

        Returns:
            (B, num_classes).
        """
        pooled = self._pool(*self._encode(*self._rows(tokens, is_padding)))
        if self.num_documents == 2:
            first, second = pooled.unflatten(0, (-1, 2)).unbind(1)
            parts = [first, second]
            if self.protocol == "fixed":
                parts += [first * second, first - second]
            pooled = torch.cat(parts, dim=-1)
        return self.head(pooled)

    def unmask(self, tokens: Tensor, is_padding: Tensor, masked: Tensor) -> Tensor:
        """Logits of the tokens behind masks, which the encoder does not see.

        Args:
            tokens: (B, N), or (B, 2, N) of two documents.
            is_padding: Bool of the same shape.
            masked: Bool of the same shape.

        Returns:
            (number of masked tokens, V), in the order of `tokens[masked]`.
        """
        tokens, is_padding = self._rows(tokens, is_padding)
        masked = masked.view(tokens.shape)
        x, _ = self._encode(tokens, is_padding, masked)
        if self.cls is not None:
            x = x[:, 1:]
        return self.unembed(x[masked])

    def _rows(self, tokens: Tensor, is_padding: Tensor) -> tuple[Tensor, Tensor]:
        """Two documents as two rows of a batch of 2 B."""
        if tokens.dim() != self.num_documents + 1 or tokens.shape[1:-1] not in ((), (2,)):
            shape = "(batch, 2, length)" if self.num_documents == 2 else "(batch, length)"
            raise ValueError(f"tokens must be {shape}, got {tuple(tokens.shape)}")
        length = tokens.shape[-1]
        return tokens.view(-1, length), is_padding.view(-1, length)

    def _encode(
        self, tokens: Tensor, is_padding: Tensor, masked: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """States of all positions, and which of them are padding; None if none can be."""
        x = self.tokens(tokens)
        if masked is not None:
            x = torch.where(masked[..., None], self.mask.to(x.dtype), x)
        if self.cls is not None:
            x = torch.cat([self.cls.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
            first = is_padding[:, :1]
            if self.protocol == "fixed":
                first = torch.zeros_like(first)
            is_padding = torch.cat([first, is_padding], dim=1)
        mask = is_padding if self.has_padding else None
        x = self.dropout(self.positions(x))
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x), mask

    def _pool(self, x: Tensor, is_padding: Tensor | None) -> Tensor:
        """(B, N, E) to (B, E)."""
        if self.pooling == "cls":
            return x[:, 0]
        if self.protocol == "lra2020":
            is_padding = None
        if self.pooling == "max":
            if is_padding is not None:
                x = x.masked_fill(is_padding[..., None], -torch.inf)
            return x.amax(dim=1)
        if is_padding is None:
            return x.mean(dim=1)
        kept = (~is_padding).to(x.dtype)[..., None]
        return (x * kept).sum(dim=1) / kept.sum(dim=1)


class Block(nn.Module):
    """y = x + attention(norm(x)), then y + MLP(norm(y)).

    Args:
        attention: Of the block.
        embed_dim: E.
        mlp_dim: Hidden width.
        dropout: Behind attention, hidden layer and MLP.
    """

    def __init__(self, attention: nn.Module, embed_dim: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attention = attention
        self.dropout = Dropout(dropout)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        wide, narrow = nn.Linear(embed_dim, mlp_dim), nn.Linear(mlp_dim, embed_dim)
        for dense in (wide, narrow):
            nn.init.xavier_uniform_(dense.weight)
            nn.init.normal_(dense.bias, std=1e-6)
        self.mlp = nn.Sequential(
            wide, nn.GELU(approximate="tanh"), Dropout(dropout), narrow, Dropout(dropout)
        )

    def forward(self, x: Tensor, is_padding: Tensor | None) -> Tensor:
        """x (B, N, E) to (B, N, E); `is_padding` is Bool (B, N)."""
        x = x + self.dropout(self.attention(self.norm1(x), key_padding_mask=is_padding))
        return x + self.mlp(self.norm2(x))


def _head(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        dense = nn.Linear(inputs, outputs)
        _init_dense(dense)
        layers += [dense, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _init_dense(dense: nn.Linear) -> None:
    """LeCun's normal cut off at two deviations, which are those of what is left, as in Flax."""
    std = dense.in_features**-0.5 / 0.87962566
    nn.init.trunc_normal_(dense.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(dense.bias)
