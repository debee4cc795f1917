"""Transformer-TTS: text to a mel spectrogram, a few frames at a time.

Source: Li et al., "Neural Speech Synthesis with Transformer Network", AAAI 2019, arXiv:1809.08895,
as set up in fairseq, which CAB (Zhang et al., ICML 2023, arXiv:2210.07661) trains: 6 + 6 pre-norm
layers, width 512, 4 heads, 4 frames per step.
Departs from fairseq: padding (see `tasks.backbones.speech`; the statistics of batch normalisation
still count it); outside training the prenet's dropout, which is always on, draws from a generator
of each row, so that what is said of a row does not depend on its batch or on what was said before.

Shapes: B batch, N tokens, S decoder steps, K frames per step, F mel bins, E embed_dim.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Attention, Pattern, State
from tasks.backbones.dropout import Dropout
from tasks.backbones.prenets import EncoderPrenet, Postnet, Prenet
from tasks.backbones.speech import ScaledPositions
from tasks.base import AttentionSlots


class Spoken(NamedTuple):
    """What the model says of a batch.

    Attributes:
        first: The frames (B, S, K F) of the decoder, which it is given back in the next step.
        frames: The same, after the postnet.
        stop: Logits (B, S): whether the step is the last.
    """

    first: Tensor
    frames: Tensor
    stop: Tensor


@dataclass(frozen=True)
class DecoderState:
    """What the decoder carries from step to step.

    Attributes:
        position: How many steps were taken.
        layers: The states of the two attentions of each layer.
        kept: The prenet's dropout of all steps, see `Prenet.draw`.
    """

    position: int
    layers: tuple[tuple[State, State], ...]
    kept: Tensor

    def select(self, rows: Tensor) -> "DecoderState":
        """The state of the batch rows `rows` (int64)."""
        picked = tuple((own.select(rows), cross.select(rows)) for own, cross in self.layers)
        return DecoderState(self.position, picked, self.kept[rows])


class FeedForward(nn.Module):
    """The position-wise network behind its norm and beside a residual."""

    def __init__(
        self, embed_dim: int, ffn_dim: int, dropout: float, activation_dropout: float
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        self.expand = nn.Linear(embed_dim, ffn_dim)
        self.contract = nn.Linear(ffn_dim, embed_dim)
        self.dropout = Dropout(dropout)
        self.activation_dropout = Dropout(activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, E) to (B, L, E)."""
        inner = self.activation_dropout(F.relu(self.expand(self.norm(x))))
        return x + self.dropout(self.contract(inner))


class EncoderLayer(nn.Module):
    """Noncausal self-attention and feed-forward."""

    def __init__(
        self, attention: Attention, ffn_dim: int, dropout: float, activation_dropout: float
    ) -> None:
        super().__init__()
        embed_dim = attention.embed_dim
        self.norm = nn.LayerNorm(embed_dim)
        self.attention = attention
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(embed_dim, ffn_dim, dropout, activation_dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, N, E) to (B, N, E); `padding` is bool (B, N), True for padding."""
        mixed = self.attention(self.norm(x), key_padding_mask=padding)
        return self.feed_forward(x + self.dropout(mixed))


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the encoded tokens, and feed-forward."""

    def __init__(
        self,
        attention: Attention,
        cross_attention: Attention,
        ffn_dim: int,
        dropout: float,
        activation_dropout: float,
    ) -> None:
        super().__init__()
        embed_dim = attention.embed_dim
        self.norm = nn.LayerNorm(embed_dim)
        self.attention = attention
        self.cross_norm = nn.LayerNorm(embed_dim)
        self.cross_attention = cross_attention
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(embed_dim, ffn_dim, dropout, activation_dropout)

    def forward(
        self, x: Tensor, encoded: Tensor, padding: Tensor | None, token_padding: Tensor | None
    ) -> Tensor:
        """x (B, S, E) and the encoded tokens (B, N, E) to (B, S, E)."""
        x = x + self.dropout(self.attention(self.norm(x), key_padding_mask=padding))
        mixed = self.cross_attention(
            self.cross_norm(x), encoded, query_padding_mask=padding, key_padding_mask=token_padding
        )
        return self.feed_forward(x + self.dropout(mixed))

    def init_states(self, encoded: Tensor, token_padding: Tensor | None) -> tuple[State, State]:
        """The states of self-attention and cross-attention before the first step."""
        own = self.attention.init_state(len(encoded))
        return own, self.cross_attention.init_state(len(encoded), encoded, token_padding)

    def decode(
        self, x: Tensor, states: tuple[State, State], form: Literal["prefill", "step"]
    ) -> tuple[Tensor, tuple[State, State]]:
        """Answer what comes next (B, S, E); the given states are consumed."""
        mixed, own = getattr(self.attention, form)(self.norm(x), states[0])
        x = x + self.dropout(mixed)
        mixed, cross = getattr(self.cross_attention, form)(self.cross_norm(x), states[1])
        return self.feed_forward(x + self.dropout(mixed)), (own, cross)


class TransformerTts(nn.Module):
    """Tokens and the frames so far to the next frames.

    Args:
        slots: Give the encoder's NS, the decoder's CS and its CC attentions.
        vocab_size: Of the tokens, of which 0 is padding.
        num_mels: F.
        max_source_len: The greatest N.
        max_steps: The greatest S.
        frames_per_step: K.
        embed_dim: E.
        num_heads: Of each attention.
        ffn_dim: Inner width of the feed-forward layers.
        num_encoder_layers: Their number.
        num_decoder_layers: Their number.
        num_encoder_prenet_layers: Convolutions over the embedded tokens.
        encoder_prenet_kernel_size: Of these.
        encoder_prenet_dropout: Behind these.
        prenet_dim: Inner width of the prenet of the frames.
        num_prenet_layers: Its layers, and one more to E.
        prenet_dropout: Within it, always on.
        postnet_dim: Channels of the postnet.
        num_postnet_layers: Its convolutions.
        postnet_kernel_size: Of these.
        postnet_dropout: Behind these.
        dropout: On the inputs of the layers and on each residual branch.
        attention_dropout: Within the attentions.
        activation_dropout: Within the feed-forward layers.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        vocab_size: int,
        num_mels: int,
        *,
        max_source_len: int,
        max_steps: int,
        frames_per_step: int = 4,
        embed_dim: int = 512,
        num_heads: int = 4,
        ffn_dim: int = 2048,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        num_encoder_prenet_layers: int = 3,
        encoder_prenet_kernel_size: int = 5,
        encoder_prenet_dropout: float = 0.5,
        prenet_dim: int = 256,
        num_prenet_layers: int = 2,
        prenet_dropout: float = 0.5,
        postnet_dim: int = 512,
        num_postnet_layers: int = 5,
        postnet_kernel_size: int = 5,
        postnet_dropout: float = 0.5,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.max_steps = max_steps
        self.step_dim = step_dim = frames_per_step * num_mels
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        self.encoder_prenet = EncoderPrenet(
            embed_dim, num_encoder_prenet_layers, encoder_prenet_kernel_size, encoder_prenet_dropout
        )
        self.token_positions = ScaledPositions(max_source_len, embed_dim)
        self.prenet = Prenet(step_dim, prenet_dim, num_prenet_layers, embed_dim, prenet_dropout)
        self.step_positions = ScaledPositions(max_steps, embed_dim)
        self.dropout = Dropout(dropout)

        attentions = partial(
            slots.stack, embed_dim=embed_dim, num_heads=num_heads, dropout=attention_dropout
        )
        self.encoder = nn.ModuleList(
            EncoderLayer(attention, ffn_dim, dropout, activation_dropout)
            for attention in attentions(
                Pattern.NONCAUSAL_SELF, num_encoder_layers, max_len=max_source_len
            )
        )
        self.encoder_norm = nn.LayerNorm(embed_dim)
        longest = max(max_source_len, max_steps)
        self.decoder = nn.ModuleList(
            DecoderLayer(attention, cross_attention, ffn_dim, dropout, activation_dropout)
            for attention, cross_attention in zip(
                attentions(Pattern.CAUSAL_SELF, num_decoder_layers, max_len=max_steps),
                attentions(Pattern.CAUSAL_CROSS, num_decoder_layers, max_len=longest),
                strict=True,
            )
        )
        self.decoder_norm = nn.LayerNorm(embed_dim)
        self.to_frames = nn.Linear(embed_dim, step_dim)
        self.to_stop = nn.Linear(embed_dim, 1)
        self.postnet = Postnet(
            step_dim, postnet_dim, num_postnet_layers, postnet_kernel_size, postnet_dropout
        )

    def forward(
        self,
        tokens: Tensor,
        frames: Tensor,
        token_padding: Tensor | None = None,
        padding: Tensor | None = None,
        *,
        seeds: Tensor | None = None,
    ) -> Spoken:
        """Say each step of a recording from those before it.

        Args:
            tokens: (B, N).
            frames: The recording (B, S, K F), of which each step sees what is before it.
            token_padding: Bool (B, N), True for padding.
            padding: Bool (B, S), True for padding.
            seeds: Of the prenet's dropout, int64 (B,); None to draw from the global generator.

        Raises:
            ValueError: If there are more tokens or steps than there may be.
        """
        encoded = self.encode(tokens, token_padding)
        before = F.pad(frames, (0, 0, 1, -1))  # zeros stand before the first step
        kept = None if seeds is None else self.prenet.draw(seeds, frames.shape[1])
        x = self.dropout(self.step_positions(self.prenet(before, kept)))
        for layer in self.decoder:
            x = layer(x, encoded, padding, token_padding)
        first, stop = self._heads(x)
        return Spoken(first, first + self.postnet(first, padding), stop)

    def encode(self, tokens: Tensor, token_padding: Tensor | None = None) -> Tensor:
        """Tokens (B, N) to their encodings (B, N, E)."""
        x = self.encoder_prenet(self.tokens(tokens), token_padding)
        x = self.dropout(self.token_positions(x))
        for layer in self.encoder:
            x = layer(x, token_padding)
        return self.encoder_norm(x)

    def init_state(
        self,
        tokens: Tensor,
        token_padding: Tensor | None = None,
        *,
        seeds: Tensor,
        max_steps: int | None = None,
    ) -> DecoderState:
        """Encode the tokens (B, N), and have every layer of the decoder absorb them.

        Args:
            tokens: (B, N).
            token_padding: Bool (B, N), True for padding.
            seeds: Of the prenet's dropout, int64 (B,).
            max_steps: Most steps that will follow; None for all that there may be.
        """
        encoded = self.encode(tokens, token_padding)
        layers = (cast(DecoderLayer, layer) for layer in self.decoder)
        states = tuple(layer.init_states(encoded, token_padding) for layer in layers)
        return DecoderState(0, states, self.prenet.draw(seeds, max_steps or self.max_steps))

    def prefill(self, frames: Tensor, state: DecoderState) -> tuple[Tensor, Tensor, DecoderState]:
        """The steps (B, S, K F) and stop logits (B, S) after given ones, in the parallel form."""
        return self._decode(frames, state, "prefill")

    def step(self, frames: Tensor, state: DecoderState) -> tuple[Tensor, Tensor, DecoderState]:
        """The step (B, 1, K F) and stop logits (B, 1) after one more; the state is consumed."""
        return self._decode(frames, state, "step")

    @torch.no_grad()
    def write(
        self,
        tokens: Tensor,
        token_padding: Tensor | None = None,
        *,
        seeds: Tensor,
        max_steps: int | None = None,
        threshold: float = 0.5,
    ) -> tuple[Tensor, Tensor]:
        """Say the tokens step by step, each row until it is likely enough to stop.

        Args:
            tokens: (B, N).
            token_padding: Bool (B, N), True for padding.
            seeds: Of the prenet's dropout, int64 (B,).
            max_steps: What has not stopped then is cut; None for all that there may be.
            threshold: The probability of a stop above which a row ends.

        Returns:
            Frames (B, S, K F), and how many steps each row has, int64 (B,).
        """
        max_steps = max_steps or self.max_steps
        state = self.init_state(tokens, token_padding, seeds=seeds, max_steps=max_steps)
        last = state.kept.new_zeros(len(tokens), 1, self.step_dim, dtype=self.to_stop.weight.dtype)
        num_steps = torch.full_like(tokens[:, 0], max_steps)
        steps: list[Tensor] = []
        while len(steps) < max_steps:
            last, stop, state = self.step(last, state)
            steps.append(last)
            stops = stop[:, 0].sigmoid() > threshold
            num_steps = num_steps.where(~stops, num_steps.clamp(max=len(steps)))
            if (num_steps <= len(steps)).all():
                break
        first = torch.cat(steps, dim=1)
        padding = torch.arange(len(steps), device=tokens.device) >= num_steps[:, None]
        return first + self.postnet(first, padding), num_steps

    @torch.no_grad()
    def _decode(
        self, frames: Tensor, state: DecoderState, form: Literal["prefill", "step"]
    ) -> tuple[Tensor, Tensor, DecoderState]:
        end = state.position + frames.shape[1]
        x = self.prenet(frames, state.kept[:, state.position : end])
        x, layers = self.dropout(self.step_positions(x, state.position)), []
        for layer, states in zip(self.decoder, state.layers, strict=True):
            x, after = cast(DecoderLayer, layer).decode(x, states, form)
            layers.append(after)
        return *self._heads(x), DecoderState(end, tuple(layers), state.kept)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.decoder_norm(x)
        return self.to_frames(x), self.to_stop(x).squeeze(-1)
