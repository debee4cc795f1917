"""Informer: an encoder that halves its sequence, and a decoder that forecasts in one pass.

Source: Zhou et al., "Informer", AAAI 2021, arXiv:2012.07436, and its reference code, Informer2020.
Departs from them: the circular convolutions keep the length in every version of torch, as meant;
the sampled keys of ProbSparse attention are shared and seeded (see `attentions.sparse.probsparse`).
Kept from the reference code, though the paper does not have it: in the decoder's self-attention
the lazy queries get the running sum of the values, not their mean, and the heads are laid out
before the positions when they are joined ("mix").

Letters: B batch, I input length, L label length, M horizon, C channels, F time features, E width.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Attention, Pattern
from attentions.sparse.probsparse import ProbSparseAttention, key_draws, log_count, sparsity
from tasks.backbones.dropout import Dropout
from tasks.base import AttentionSlots

FACTOR = 5  # of ProbSparse attention, reference code


class Informer(nn.Module):
    """Past (B, I, C) to future (B, M, C).

    The encoder's self-attention and the decoder's cross-attention are slots. Where they are not
    under test, the first is ProbSparse attention and the second softmax attention. The decoder's
    self-attention stays as it is.

    Args:
        slots: Give the attentions.
        channels: C.
        num_time_features: F.
        input_len: I.
        label_len: L, how many of the past values the decoder is given before its zeros.
        horizon: M.
        embed_dim: E.
        num_heads: Of every attention.
        ffn_dim: Inner width of the feed-forward layers.
        num_encoder_layers: Between each two of them the sequence is halved.
        num_decoder_layers: Their number.
        dropout: Everywhere.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        channels: int,
        num_time_features: int,
        input_len: int,
        label_len: int,
        horizon: int,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.label_len, self.horizon = label_len, horizon
        decoder_len = label_len + horizon
        self.embed_past = DataEmbedding(channels, num_time_features, embed_dim, input_len, dropout)
        self.embed_future = DataEmbedding(
            channels, num_time_features, embed_dim, decoder_len, dropout
        )
        sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "dropout": dropout}
        length = input_len
        self.encoder = nn.Sequential()
        for layer in range(num_encoder_layers):
            if layer:
                self.encoder.append(Distilling(embed_dim))
                length = math.ceil(length / 2)
            attention = slots.build(
                Pattern.NONCAUSAL_SELF,
                **sizes,
                layer=layer,
                num_layers=num_encoder_layers,
                max_len=length,
                rest=partial(ProbSparseAttention, factor=FACTOR),
            )
            self.encoder.append(EncoderLayer(attention, embed_dim, ffn_dim, dropout))
        self.encoder.append(nn.LayerNorm(embed_dim))
        self.decoder = nn.ModuleList(
            DecoderLayer(
                MaskedProbSparse(embed_dim, num_heads, seed=layer),
                slots.build(
                    Pattern.NONCAUSAL_CROSS,
                    **sizes,
                    layer=layer,
                    num_layers=num_decoder_layers,
                    max_len=max(length, decoder_len),
                ),
                embed_dim,
                ffn_dim,
                dropout,
            )
            for layer in range(num_decoder_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.projection = nn.Linear(embed_dim, channels)

    def forward(self, past: Tensor, times: Tensor) -> Tensor:
        """Map past (B, I, C), with the time features of both (B, I + M, F), to (B, M, C)."""
        input_len = past.shape[1]
        context = self.encoder(self.embed_past(past, times[:, :input_len]))
        start = input_len - self.label_len
        # The values to forecast are zeros in the decoder's input.
        x = self.embed_future(F.pad(past[:, start:], (0, 0, 0, self.horizon)), times[:, start:])
        last = len(self.decoder) - 1
        for depth, layer in enumerate(self.decoder):
            x = layer(x, context, unread=self.label_len if depth == last else 0)
        return self.projection(self.norm(x))


class DataEmbedding(nn.Module):
    """Values (B, N, C) and time features (B, N, F) to (B, N, E): convolution, position, time."""

    position: Tensor

    def __init__(
        self, channels: int, num_time_features: int, embed_dim: int, max_len: int, dropout: float
    ) -> None:
        super().__init__()
        self.value = nn.Conv1d(channels, embed_dim, 3, padding=1, padding_mode="circular")
        nn.init.kaiming_normal_(self.value.weight, mode="fan_in", nonlinearity="leaky_relu")
        self.time = nn.Linear(num_time_features, embed_dim)
        self.register_buffer("position", sinusoids(max_len, embed_dim), persistent=False)
        self.dropout = Dropout(dropout)

    def forward(self, values: Tensor, times: Tensor) -> Tensor:
        """Map values (B, N, C) and time features (B, N, F) to (B, N, E)."""
        return self.dropout(self.value(values.mT).mT + self.time(times) + self.position)


def sinusoids(length: int, embed_dim: int) -> Tensor:
    """Vaswani et al.'s positions (length, embed_dim), sines in even places, cosines in odd ones."""
    frequency = torch.exp(torch.arange(0, embed_dim, 2) * (-math.log(10_000.0) / embed_dim))
    angle = torch.arange(length)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class Distilling(nn.Module):
    """(B, N, E) to (B, ceil(N / 2), E): the encoder keeps the stronger half of its positions."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(embed_dim, embed_dim, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm1d(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, E) to (B, ceil(N / 2), E)."""
        return F.max_pool1d(F.elu(self.norm(self.conv(x.mT))), 3, stride=2, padding=1).mT


class FeedForward(nn.Sequential):
    """GELU between two position-wise layers (1x1 convolutions in the reference code)."""

    def __init__(self, embed_dim: int, ffn_dim: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(embed_dim, ffn_dim),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(ffn_dim, embed_dim),
            Dropout(dropout),
        )


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each added to its input and normalised."""

    def __init__(self, attention: Attention, embed_dim: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.ffn = FeedForward(embed_dim, ffn_dim, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, E) to (B, N, E)."""
        x = self.norm1(x + self.dropout(self.attention(x)))
        return self.norm2(x + self.ffn(x))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each added to its input and normalised."""

    def __init__(
        self,
        self_attention: nn.Module,
        cross_attention: Attention,
        embed_dim: int,
        ffn_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.ffn = FeedForward(embed_dim, ffn_dim, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, unread: int) -> Tensor:
        """Map x (B, N, E) and context (B, K, E) to (B, N - unread, E).

        Args:
            unread: How many of the first positions nothing reads any more. They still ask their
                questions in the cross-attention, where they may matter to the others.
        """
        x = self.norm1(x + self.dropout(self.self_attention(x)))
        x = (x + self.dropout(self.cross_attention(x, context)))[:, unread:]
        x = self.norm2(x)
        return self.norm3(x + self.ffn(x))


class MaskedProbSparse(nn.Module):
    """The decoder's self-attention, as the reference code has it; (B, N, E) to (B, N, E).

    An active query attends to itself and what is before it; a lazy one gets the running sum of
    the values. It is no causal attention: the choice of the active queries looks ahead, and so
    do the mixed heads. Nothing leaks by that, as the decoder is given no future value.
    """

    draws: Tensor

    def __init__(self, embed_dim: int, num_heads: int, seed: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_proj = nn.Linear(embed_dim, 3 * embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        self.register_buffer("draws", key_draws(FACTOR, seed))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, E) to (B, N, E)."""
        length = x.shape[1]
        qkv = self.qkv_proj(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind()  # each (B, H, N, D)
        active = sparsity(q, k, self.draws, FACTOR).topk(log_count(FACTOR, length)).indices
        before = torch.arange(length, device=x.device) <= active[..., None]  # (B, H, u, N)
        rows = active[..., None].expand(-1, -1, -1, q.shape[-1])
        attended = F.scaled_dot_product_attention(q.gather(2, rows), k, v, attn_mask=before)
        # Half precision would lose the small steps of a long sum.
        sums = v.cumsum(dim=-2, dtype=torch.promote_types(v.dtype, torch.float32))
        mixed = sums.scatter(2, rows, attended.to(sums.dtype))
        # Read as (B, N, E) without putting the positions before the heads: the "mix".
        return self.out_proj(mixed.to(v.dtype).reshape(x.shape))
