"""The backbone of the recall tasks: a few mixers, with or without MLPs, between embeddings.

Source: Arora et al., "Zoology", ICLR 2024, arXiv:2312.04927, and "Based", ICML 2024,
arXiv:2402.18668, and their code, whose block is that of a Transformer with the identity in the
place of the MLP: the second norm stays, and is added. Poli et al., "MAD", ICML 2024,
arXiv:2403.17844, whose model is the same with RMSNorm, SwiGLU and an unembedding of its own.
Departs from them: the mixers keep their own initialisation (in Zoology N(0, 0.02)), and every mixer
gets the positions that are asked for (there, attention alone gets learned ones). The cross patterns
are ours: a context that no mixer has touched is read by a stream of queries.

Shapes: B batch, N length, C context length, P read positions, E embed_dim, V vocabulary.
"""

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.functional.short_convolution import short_convolution
from tasks.backbones.dropout import Dropout
from tasks.backbones.positions import Kind, Positions
from tasks.base import AttentionSlots

Norm = Literal["layer", "rms"]
Mlp = Literal["none", "gelu", "swiglu"]


class RecallModel(nn.Module):
    """Embedding, then `num_layers` blocks, then norm and unembedding.

    In the self patterns the blocks mix one stream. In the cross patterns they mix the stream of the
    queries with a context: its embedding behind one block of a short convolution, which joins a
    value to the key before it, and a norm.

    Args:
        slots: Give the attentions, of the pattern under test.
        vocab_size: V, for both streams.
        seq_len: The greatest N.
        context_len: The greatest C; in the cross patterns only.
        mlp: What follows each mixer; `none` is the identity, whose norm and residual stay.
        mlp_dim: Its inner width; None for 4 E, with SwiGLU two thirds of it.
        norm: Of every block, and before the unembedding.
        short_conv: Width of the convolution in a block of its own before the mixers (Based's
            setting); None for no such block. The block of a context always has one, of 3 at None.
        positions: See `Positions`; of the stream, or of the context where there is one.
        query_positions: Of the stream that reads a context.
        tied: Whether the unembedding is the embedding.
        dropout: On the embeddings.
        attention_dropout: Within the mixers.
        init_std: Of the embeddings.

    Raises:
        ValueError: If there is no such norm or MLP, or the pattern and `context_len` disagree.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        vocab_size: int,
        *,
        seq_len: int,
        context_len: int | None = None,
        embed_dim: int,
        num_layers: int = 2,
        num_heads: int = 1,
        mlp: Mlp = "none",
        mlp_dim: int | None = None,
        norm: Norm = "layer",
        short_conv: int | None = None,
        positions: Kind = "learned",
        query_positions: Kind = "none",
        tied: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        pattern = Pattern(slots.pattern)
        if pattern.is_cross != (context_len is not None):
            raise ValueError(
                f"a context has a context_len, and only that: in {pattern} got {context_len}"
            )
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        nn.init.normal_(self.tokens.weight, std=init_std)
        own = query_positions if context_len else positions
        self.positions = Positions(own, seq_len, embed_dim, init_std=init_std)
        self.dropout = Dropout(dropout)
        self.lead = self.context = None
        if context_len is not None:
            self.context = Context(
                Positions(positions, context_len, embed_dim, init_std=init_std),
                Block(ShortConvolution(embed_dim, short_conv or 3), embed_dim, norm),
                normalisation(norm, embed_dim),
            )
        elif short_conv is not None:
            self.lead = Block(ShortConvolution(embed_dim, short_conv), embed_dim, norm)
        self.blocks = nn.ModuleList(
            Block(attention, embed_dim, norm, mlp, mlp_dim)
            for attention in slots.stack(
                pattern,
                num_layers,
                embed_dim=embed_dim,
                num_heads=num_heads,
                dropout=attention_dropout,
                max_len=max(seq_len, context_len or 0),
            )
        )
        self.norm = normalisation(norm, embed_dim)
        self.unembed = None if tied else nn.Linear(embed_dim, vocab_size)
        if self.unembed is not None:
            nn.init.zeros_(self.unembed.bias)

    def forward(self, tokens: Tensor, read: Tensor, context: Tensor | None = None) -> Tensor:
        """Logits at some of the positions.

        Args:
            tokens: (B, N).
            read: The positions to read at, int64 (B, P).
            context: (B, C) in the cross patterns.

        Returns:
            (B, P, V).
        """
        # The vocabulary is wider than the model: unembed only what is read.
        return self.logits(self.hidden(tokens, read, context))

    def hidden(self, tokens: Tensor, read: Tensor, context: Tensor | None = None) -> Tensor:
        """What `logits` takes, (B, P, E); see `forward`."""
        memory = None
        if self.context is not None:
            assert context is not None
            memory = self.context(self.dropout(self.context.positions(self.tokens(context))))
        x = self.dropout(self.positions(self.tokens(tokens)))
        if self.lead is not None:
            x = self.lead(x)
        for block in self.blocks:
            x = block(x, memory)
        return x.gather(1, read[..., None].expand(-1, -1, x.shape[-1]))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., E) to (..., V)."""
        hidden = self.norm(hidden)
        return hidden @ self.tokens.weight.T if self.unembed is None else self.unembed(hidden)


class Block(nn.Module):
    """y = x + mixer(norm1(x)), then y + mlp(norm2(y))."""

    def __init__(
        self,
        mixer: nn.Module,
        embed_dim: int,
        norm: Norm,
        mlp: Mlp = "none",
        mlp_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = (normalisation(norm, embed_dim) for _ in range(2))
        self.mixer = mixer
        self.mlp = perceptron(mlp, embed_dim, mlp_dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, N, E) to (B, N, E), with the context (B, C, E) in the cross patterns."""
        x = x + self.mixer(self.norm1(x), *([] if context is None else [context]))
        return x + self.mlp(self.norm2(x))


class Context(nn.Module):
    """The other sequence: positions, one block without a mixer, and a norm."""

    def __init__(self, positions: Positions, block: Block, norm: nn.Module) -> None:
        super().__init__()
        self.positions, self.block, self.norm = positions, block, norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, E) to (B, C, E)."""
        return self.norm(self.block(x))


class ShortConvolution(nn.Module):
    """u + (W u + b) . (h * u), channel by channel, over the last `width` positions.

    BaseConv with a short filter as it stands before the mixer in Based's code, where the input is
    added once more.
    """

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(embed_dim, embed_dim)
        self.filter = nn.Conv1d(embed_dim, embed_dim, width, groups=embed_dim)

    def forward(self, u: Tensor) -> Tensor:
        """(B, N, E) to (B, N, E)."""
        weight = self.filter.weight.squeeze(1)
        return u + self.gate(u) * short_convolution(u, weight, bias=self.filter.bias)


class SwiGlu(nn.Module):
    """W_3 (silu(W_1 x) . W_2 x), without biases."""

    def __init__(self, embed_dim: int, mlp_dim: int | None) -> None:
        super().__init__()
        if mlp_dim is None:
            mlp_dim = -(-(8 * embed_dim // 3) // 16) * 16  # MAD's: up to a multiple of 16
        self.expand = nn.Linear(embed_dim, 2 * mlp_dim, bias=False)
        self.contract = nn.Linear(mlp_dim, embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        gate, up = self.expand(x).chunk(2, dim=-1)
        return self.contract(F.silu(gate) * up)


def normalisation(norm: Norm, embed_dim: int) -> nn.Module:
    """The norm of this name."""
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be one of {get_args(Norm)}, got {norm!r}")
    return nn.LayerNorm(embed_dim) if norm == "layer" else nn.RMSNorm(embed_dim, eps=1e-5)


def perceptron(mlp: Mlp, embed_dim: int, mlp_dim: int | None = None) -> nn.Module:
    """The MLP of this name."""
    if mlp not in get_args(Mlp):
        raise ValueError(f"mlp must be one of {get_args(Mlp)}, got {mlp!r}")
    if mlp == "none":
        return nn.Identity()
    if mlp == "swiglu":
        return SwiGlu(embed_dim, mlp_dim)
    mlp_dim = mlp_dim or 4 * embed_dim
    return nn.Sequential(nn.Linear(embed_dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, embed_dim))
