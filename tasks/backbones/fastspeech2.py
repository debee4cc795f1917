"""FastSpeech 2: text to a mel spectrogram in one pass, through how long each token is spoken.

Source: Ren et al., "FastSpeech 2", ICLR 2021, arXiv:2006.04558, as set up in fairseq, which CAB
(Zhang et al., ICML 2023, arXiv:2210.07661) trains: 4 + 4 feed-forward-transformer blocks, width
256, 2 heads, pitch and energy for each token, no postnet.
Departs from fairseq: padding (see `tasks.backbones.speech`); a row that no token of would be
spoken has one frame.

Shapes: B batch, N tokens, T frames, F mel bins, E embed_dim.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Attention, Pattern
from tasks.backbones.dropout import Dropout
from tasks.backbones.speech import Conv, ScaledPositions
from tasks.base import AttentionSlots


class Spoken(NamedTuple):
    """What the model says of a batch.

    Attributes:
        mels: (B, T, F).
        padding: Bool (B, T), True behind the last frame of a row.
        log_durations: (B, N), predicted logarithms of 1 + the frames of each token.
        pitch: (B, N), predicted.
        energy: (B, N), predicted.
    """

    mels: Tensor
    padding: Tensor
    log_durations: Tensor
    pitch: Tensor
    energy: Tensor


class Block(nn.Module):
    """Self-attention and two convolutions, each added to its input and normalised."""

    def __init__(
        self, attention: Attention, ffn_dim: int, kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        embed_dim = attention.embed_dim
        self.attention = attention
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.expand = Conv(embed_dim, ffn_dim, kernel_size, "relu")
        self.contract = Conv(ffn_dim, embed_dim, kernel_size, "relu")
        self.norm = nn.LayerNorm(embed_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, L, E) to (B, L, E); `padding` is bool (B, L), True for padding."""
        x = self.attention_norm(x + self.attention(x, key_padding_mask=padding))
        inner = self.contract(F.relu(self.expand(x, padding)), padding)
        return self.norm(x + self.dropout(inner))


class Predictor(nn.Module):
    """One number for each token."""

    def __init__(self, embed_dim: int, hidden_dim: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = Conv(embed_dim, hidden_dim, kernel_size, "relu")
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.conv2 = Conv(hidden_dim, hidden_dim, kernel_size, "relu")
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.project = nn.Linear(hidden_dim, 1)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, N, E) to (B, N)."""
        x = self.dropout(self.norm1(F.relu(self.conv1(x, padding))))
        x = self.dropout(self.norm2(F.relu(self.conv2(x, padding))))
        return self.project(x).squeeze(-1)


class Bins(nn.Module):
    """An embedding for each of equal ranges of a number, and for what lies below and above."""

    edges: Tensor

    def __init__(self, low: float, high: float, num_bins: int, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(low, high, num_bins - 1), persistent=False)
        self.embedding = nn.Embedding(num_bins, embed_dim)
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)

    def forward(self, values: Tensor) -> Tensor:
        """(B, N) to (B, N, E)."""
        return self.embedding(torch.bucketize(values.contiguous(), self.edges))


class FastSpeech2(nn.Module):
    """Tokens to mel spectrograms.

    Args:
        slots: Give the NS attentions of all blocks, those of the tokens and those of the frames.
        vocab_size: Of the tokens, of which 0 is padding.
        num_mels: F.
        max_source_len: The greatest N.
        max_target_len: The greatest T; a longer prediction is cut.
        pitch_range: Least and greatest pitch, between which the bins lie.
        energy_range: The same of the energy.
        embed_dim: E.
        num_heads: Of each attention.
        ffn_dim: Inner channels of a block's convolutions.
        kernel_size: Of these.
        num_encoder_layers: Blocks over the tokens.
        num_decoder_layers: Blocks over the frames.
        predictor_dim: Channels of the predictors.
        predictor_kernel_size: Of their convolutions.
        predictor_dropout: Within them.
        num_bins: Of pitch and of energy.
        position_scale: Of the sines and cosines at the beginning. At 1, as in fairseq, a token is
            soft beside its position.
        dropout: On the embedded tokens and behind the convolutions of a block.
        attention_dropout: Within the attentions.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        vocab_size: int,
        num_mels: int,
        *,
        max_source_len: int,
        max_target_len: int,
        pitch_range: tuple[float, float],
        energy_range: tuple[float, float],
        embed_dim: int = 256,
        num_heads: int = 2,
        ffn_dim: int = 1024,
        kernel_size: int = 9,
        num_encoder_layers: int = 4,
        num_decoder_layers: int = 4,
        predictor_dim: int = 256,
        predictor_kernel_size: int = 3,
        predictor_dropout: float = 0.5,
        num_bins: int = 256,
        position_scale: float = 1.0,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.max_target_len = max_target_len
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        nn.init.normal_(self.tokens.weight, std=embed_dim**-0.5)
        self.token_positions = ScaledPositions(max_source_len, embed_dim, position_scale)
        self.frame_positions = ScaledPositions(max_target_len, embed_dim, position_scale)
        self.dropout = Dropout(dropout)

        def blocks(num_layers: int, max_len: int) -> nn.ModuleList:
            return nn.ModuleList(
                Block(attention, ffn_dim, kernel_size, dropout)
                for attention in slots.stack(
                    Pattern.NONCAUSAL_SELF,
                    num_layers,
                    embed_dim=embed_dim,
                    num_heads=num_heads,
                    dropout=attention_dropout,
                    max_len=max_len,
                )
            )

        def predictor() -> Predictor:
            return Predictor(embed_dim, predictor_dim, predictor_kernel_size, predictor_dropout)

        self.encoder = blocks(num_encoder_layers, max_source_len)
        self.duration_predictor = predictor()
        self.pitch_predictor, self.pitch_bins = predictor(), Bins(*pitch_range, num_bins, embed_dim)
        self.energy_predictor = predictor()
        self.energy_bins = Bins(*energy_range, num_bins, embed_dim)
        self.decoder = blocks(num_decoder_layers, max_target_len)
        self.to_mels = nn.Linear(embed_dim, num_mels)

    def forward(
        self,
        tokens: Tensor,
        padding: Tensor | None = None,
        *,
        durations: Tensor | None = None,
        pitch: Tensor | None = None,
        energy: Tensor | None = None,
        num_frames: int | None = None,
    ) -> Spoken:
        """Say the tokens, with what is predicted of all that is not given.

        Args:
            tokens: (B, N).
            padding: Bool (B, N), True for padding.
            durations: Frames of each token, int64 (B, N).
            pitch: (B, N).
            energy: (B, N).
            num_frames: T, which the durations tell too, but have to be waited for.

        Raises:
            ValueError: If there are more tokens, or given frames, than there may be.
        """
        x = self.dropout(self.token_positions(self.tokens(tokens)))
        for block in self.encoder:
            x = block(x, padding)
        log_durations = self.duration_predictor(x, padding)
        predicted_pitch = self.pitch_predictor(x, padding)
        x = x + self.pitch_bins(predicted_pitch if pitch is None else pitch)
        predicted_energy = self.energy_predictor(x, padding)
        x = x + self.energy_bins(predicted_energy if energy is None else energy)
        if durations is None:
            durations = self._frames_of(log_durations, padding)
            num_frames = min(int(durations.sum(dim=1).max()), self.max_target_len)
        x, frame_padding = stretch(x, durations, num_frames)
        x = self.frame_positions(x)
        for block in self.decoder:
            x = block(x, frame_padding)
        return Spoken(
            self.to_mels(x), frame_padding, log_durations, predicted_pitch, predicted_energy
        )

    def _frames_of(self, log_durations: Tensor, padding: Tensor | None) -> Tensor:
        """Predicted durations as frames (B, N), of which each row has one at least."""
        frames = log_durations.float().exp() - 1
        frames = frames.nan_to_num().clamp(0, self.max_target_len).round().long()
        if padding is not None:
            frames = frames.masked_fill(padding, 0)
        is_silent = frames.sum(dim=1) == 0
        frames[:, 0] += is_silent
        return frames


def stretch(x: Tensor, durations: Tensor, num_frames: int | None = None) -> tuple[Tensor, Tensor]:
    """Repeat each token for its duration.

    Args:
        x: (B, N, E).
        durations: int64 (B, N).
        num_frames: T; what is longer is cut. None for the longest row.

    Returns:
        (B, T, E), and where it is padding, bool (B, T).
    """
    ends = durations.cumsum(dim=1)
    if num_frames is None:
        num_frames = int(ends[:, -1].max())
    frame = torch.arange(num_frames, device=x.device).expand(len(x), -1).contiguous()
    token = torch.searchsorted(ends, frame, right=True)  # the first that ends behind the frame
    padding = token == durations.shape[1]
    token = token.clamp(max=durations.shape[1] - 1)
    return x.gather(1, token[..., None].expand(-1, -1, x.shape[-1])), padding
