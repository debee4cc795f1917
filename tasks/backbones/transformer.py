"""The encoder-decoder Transformer of CAB's summarisation: post-norm, learned positions.

Source: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, as set up in CAB (Zhang
et al., ICML 2023, arXiv:2210.07661): 6 + 6 layers, width 512, 8 heads, GELU, embeddings scaled by
sqrt(width), then positions, LayerNorm and dropout; source, target and output share nothing.

Shapes: B batch, N source length, M target length, E embed_dim, V vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Attention, Pattern, State
from tasks.backbones.dropout import Dropout
from tasks.backbones.positions import Kind, Positions
from tasks.base import AttentionSlots


@dataclass(frozen=True)
class DecoderState:
    """What the decoder carries from token to token: the states of its layers' two attentions."""

    position: int
    layers: tuple[tuple[State, State], ...]

    def select(self, rows: Tensor) -> "DecoderState":
        """The state of the batch rows `rows` (int64)."""
        picked = tuple((own.select(rows), cross.select(rows)) for own, cross in self.layers)
        return DecoderState(self.position, picked)


class Embedding(nn.Module):
    """Scaled token embeddings plus positions, then LayerNorm and dropout."""

    def __init__(
        self, vocab_size: int, embed_dim: int, positions: Kind, max_len: int, dropout: float
    ) -> None:
        super().__init__()
        std = embed_dim**-0.5
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        nn.init.normal_(self.tokens.weight, std=std)
        self.positions = Positions(positions, max_len, embed_dim, init_std=std)
        self.norm = nn.LayerNorm(embed_dim)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, position: int = 0) -> Tensor:
        """Tokens (B, L) that stand at `position` and after, to (B, L, E).

        Raises:
            ValueError: If they reach beyond `max_len`.
        """
        scaled = self.tokens(tokens) * self.tokens.embedding_dim**0.5
        return self.dropout(self.norm(self.positions(scaled, position)))


class FeedForward(nn.Module):
    """The position-wise network with its residual connection and post-norm."""

    def __init__(self, embed_dim: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(embed_dim, ffn_dim)
        self.contract = nn.Linear(ffn_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, E) to (B, L, E)."""
        return self.norm(x + self.dropout(self.contract(F.gelu(self.expand(x)))))


class EncoderLayer(nn.Module):
    """Noncausal self-attention and feed-forward."""

    def __init__(self, attention: Attention, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(attention.embed_dim)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(attention.embed_dim, ffn_dim, dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, N, E) to (B, N, E); `padding` is bool (B, N), True for padding."""
        mixed = self.attention(x, key_padding_mask=padding)
        return self.feed_forward(self.norm(x + self.dropout(mixed)))


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the encoded source, and feed-forward."""

    def __init__(
        self, attention: Attention, cross_attention: Attention, ffn_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(attention.embed_dim)
        self.cross_attention = cross_attention
        self.cross_norm = nn.LayerNorm(attention.embed_dim)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(attention.embed_dim, ffn_dim, dropout)

    def forward(
        self, x: Tensor, encoded: Tensor, padding: Tensor | None, source_padding: Tensor | None
    ) -> Tensor:
        """x (B, M, E) and the encoded source (B, N, E) to (B, M, E)."""
        x = self._after_self(x, self.attention(x, key_padding_mask=padding))
        mixed = self.cross_attention(
            x, encoded, query_padding_mask=padding, key_padding_mask=source_padding
        )
        return self._after_cross(x, mixed)

    def init_states(self, encoded: Tensor, source_padding: Tensor | None) -> tuple[State, State]:
        """The states of self-attention and cross-attention before the first token."""
        own = self.attention.init_state(len(encoded))
        return own, self.cross_attention.init_state(len(encoded), encoded, source_padding)

    def prefill(self, x: Tensor, states: tuple[State, State]) -> tuple[Tensor, tuple[State, State]]:
        """Answer a prompt (B, M, E) in the parallel form."""
        mixed, own = self.attention.prefill(x, states[0])
        x = self._after_self(x, mixed)
        mixed, cross = self.cross_attention.prefill(x, states[1])
        return self._after_cross(x, mixed), (own, cross)

    def step(self, x: Tensor, states: tuple[State, State]) -> tuple[Tensor, tuple[State, State]]:
        """Answer one more token (B, 1, E); the given states are consumed."""
        mixed, own = self.attention.step(x, states[0])
        x = self._after_self(x, mixed)
        mixed, cross = self.cross_attention.step(x, states[1])
        return self._after_cross(x, mixed), (own, cross)

    def _after_self(self, x: Tensor, mixed: Tensor) -> Tensor:
        return self.norm(x + self.dropout(mixed))

    def _after_cross(self, x: Tensor, mixed: Tensor) -> Tensor:
        return self.feed_forward(self.cross_norm(x + self.dropout(mixed)))


class Transformer(nn.Module):
    """Encoder and decoder between token numbers and logits.

    Args:
        slots: Give the encoder's NS, the decoder's CS and its CC attentions.
        vocab_size: V, of source and target.
        max_source_len: The greatest length of the source.
        max_target_len: The greatest length of the target.
        positions: See `Positions`.
        dropout: On embeddings and on each residual branch.
        attention_dropout: Within the attentions.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        vocab_size: int,
        *,
        max_source_len: int,
        max_target_len: int,
        embed_dim: int = 512,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        positions: Kind = "learned",
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed_source = Embedding(vocab_size, embed_dim, positions, max_source_len, dropout)
        self.embed_target = Embedding(vocab_size, embed_dim, positions, max_target_len, dropout)

        attentions = partial(
            slots.stack, embed_dim=embed_dim, num_heads=num_heads, dropout=attention_dropout
        )
        self.encoder = nn.ModuleList(
            EncoderLayer(attention, ffn_dim, dropout)
            for attention in attentions(
                Pattern.NONCAUSAL_SELF, num_encoder_layers, max_len=max_source_len
            )
        )
        longest = max(max_source_len, max_target_len)
        self.decoder = nn.ModuleList(
            DecoderLayer(attention, cross_attention, ffn_dim, dropout)
            for attention, cross_attention in zip(
                attentions(Pattern.CAUSAL_SELF, num_decoder_layers, max_len=max_target_len),
                attentions(Pattern.CAUSAL_CROSS, num_decoder_layers, max_len=longest),
                strict=True,
            )
        )
        self.to_logits = nn.Linear(embed_dim, vocab_size, bias=False)
        nn.init.normal_(self.to_logits.weight, std=embed_dim**-0.5)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """The logits (B, M, V) of the token after each of the target.

        Args:
            source: Token numbers (B, N).
            target: Token numbers (B, M).
            source_padding: Bool (B, N), True for padding.
            target_padding: Bool (B, M), True for padding.

        Raises:
            ValueError: If one of them is longer than it may be.
        """
        encoded = self.encode(source, source_padding)
        x = self.embed_target(target)
        for layer in self.decoder:
            x = layer(x, encoded, target_padding, source_padding)
        return self.to_logits(x)

    def encode(self, source: Tensor, source_padding: Tensor | None = None) -> Tensor:
        """Source tokens (B, N) to their encodings (B, N, E)."""
        x = self.embed_source(source)
        for layer in self.encoder:
            x = layer(x, source_padding)
        return x

    def init_state(self, source: Tensor, source_padding: Tensor | None = None) -> DecoderState:
        """Encode the source (B, N), and have every layer of the decoder absorb it."""
        encoded = self.encode(source, source_padding)
        layers = (cast(DecoderLayer, layer) for layer in self.decoder)
        return DecoderState(
            0, tuple(layer.init_states(encoded, source_padding) for layer in layers)
        )

    def prefill(self, prompt: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """The logits (B, V) after a prompt (B, M), computed in the parallel form."""
        return self._decode(prompt, state, "prefill")

    def step(self, token: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """The logits (B, V) after one more token (B,); the given state is consumed."""
        return self._decode(token[:, None], state, "step")

    @torch.no_grad()
    def _decode(
        self, tokens: Tensor, state: DecoderState, form: Literal["prefill", "step"]
    ) -> tuple[Tensor, DecoderState]:
        x, layers = self.embed_target(tokens, state.position), []
        for layer, states in zip(self.decoder, state.layers, strict=True):
            x, states = getattr(layer, form)(x, states)
            layers.append(states)
        after = DecoderState(state.position + tokens.shape[1], tuple(layers))
        return self.to_logits(x[:, -1]), after
