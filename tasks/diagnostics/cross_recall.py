"""Cross-pattern recall: the same keys, values and questions in all four attention patterns.

Source: none; it is ours. Pairs of MQAR (Arora et al., "Zoology", ICLR 2024, arXiv:2312.04927),
asked in a self pattern after the pairs in the same stream, and in a cross pattern by a stream of
queries that reads the pairs as its context. A short convolution over the embeddings lays each key
beside its value, in every pattern alike, so that one layer of the mechanism is all that is left to
do; the backbone has no other, and no positions.
In: context k1 v1 ... kN vN; questions, each a blank and a key. Out: the value of each queried key.
Scores: argmax over the vocabulary, mean over the queries of a row, then over rows; also for each
number of pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern
from tasks.base import AttentionSlots
from tasks.diagnostics.draws import distinct
from tasks.diagnostics.questions import Answerer, Questions, QuestionsData


@dataclass(frozen=True)
class Settings:
    """Of one kind of row.

    Attributes:
        num_pairs: N.
        num_queries: Keys asked for, each any of the N.
        vocab_size: V, even: token 0 is blank, keys are 1 .. V/2 - 1 and values V/2 .. V - 1, both
            without repetition within a row.
        num_blanks: Blanks before each key that is asked for. As many as the convolution is wide,
            less one, keep it from seeing the last pair, or another question, without the mechanism.

    Raises:
        ValueError: If the pairs do not fit into the vocabulary.
    """

    num_pairs: int
    num_queries: int
    vocab_size: int
    num_blanks: int = 1

    def __post_init__(self) -> None:
        if self.num_pairs < 1 or self.num_queries < 1 or self.num_blanks < 0:
            raise ValueError(
                "num_pairs >= 1, num_queries >= 1 and num_blanks >= 0 fails: "
                f"{self.num_pairs}, {self.num_queries}, {self.num_blanks}"
            )
        if self.vocab_size % 2 or self.num_pairs > self.vocab_size // 2 - 1:
            raise ValueError(
                "num_pairs <= vocab_size / 2 - 1 (the keys), vocab_size even, fails: "
                f"{self.num_pairs} pairs, vocab_size {self.vocab_size}"
            )


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Questions:
    """Draw `count` rows."""
    rng = np.random.default_rng(seed)
    half, num_pairs = settings.vocab_size // 2, settings.num_pairs
    keys = 1 + distinct(rng, count, half - 1, num_pairs)
    values = half + distinct(rng, count, half, num_pairs)
    asked = rng.integers(num_pairs, size=(count, settings.num_queries))
    slots = np.zeros((count, settings.num_queries, settings.num_blanks + 1), np.int32)
    slots[:, :, -1] = np.take_along_axis(keys, asked, axis=1)
    positions = np.arange(settings.num_blanks, slots[0].size, slots.shape[2], dtype=np.int32)
    return Questions(
        context=np.stack([keys, values], axis=2).reshape(count, -1).astype(np.int32),
        queries=slots.reshape(count, -1),
        positions=np.tile(positions, (count, 1)),
        answers=np.take_along_axis(values, asked, axis=1).astype(np.int32),
    )


class JoinedModel(nn.Module):
    """Embeddings joined with those before them, then one layer of the mechanism.

    Every stream goes through the same embedding and convolution; y = x + mixer(norm(x)) is all that
    mixes further. The convolution is dense, so that a projection can tell a token from the one
    before it, and nothing is tied: what a stream carries of its own is no answer.

    Args:
        slots: Give the attention, of the pattern under test.
        vocab_size: V, for both streams.
        seq_len: The greatest length of the stream that is answered in.
        context_len: Of the context, in the cross patterns only.
        embed_dim: E.
        num_heads: Of the attention.
        short_conv: How many tokens are joined.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        vocab_size: int,
        *,
        seq_len: int,
        context_len: int | None = None,
        embed_dim: int,
        num_heads: int = 1,
        short_conv: int = 2,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        self.join = nn.Conv1d(embed_dim, embed_dim, short_conv)
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        self.mixer = slots.build(
            Pattern(slots.pattern),
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_layers=1,
            max_len=max(seq_len, context_len or 0),
        )
        self.unembed = nn.Linear(embed_dim, vocab_size)

    def forward(self, tokens: Tensor, read: Tensor, context: Tensor | None = None) -> Tensor:
        """Logits (B, P, V) at the positions `read` (B, P) of `tokens` (B, N).

        Args:
            context: (B, C) in the cross patterns.
        """
        x = self._embed(tokens)
        streams = [x] if context is None else [x, self._embed(context)]
        x = x + self.mixer(*map(self.norm1, streams))
        x = x.gather(1, read[..., None].expand(-1, -1, x.shape[-1]))
        return self.unembed(self.norm2(x))

    def _embed(self, tokens: Tensor) -> Tensor:
        """(B, N) to (B, N, E)."""
        (width,) = self.join.kernel_size
        return self.join(F.pad(self.tokens(tokens).mT, (width - 1, 0))).mT


class CrossRecallData(QuestionsData):
    """Rows of several numbers of pairs, each with its own score.

    Args:
        num_pairs: N, of each kind of row.
        num_queries: See `Settings`, as `vocab_size` and `num_blanks`.
        **given: See `QuestionsData`.
    """

    title = "cross_recall"
    generate = staticmethod(generate)

    def __init__(
        self,
        *,
        num_pairs: Sequence[int],
        num_queries: int,
        vocab_size: int,
        num_blanks: int = 1,
        **given: Any,
    ) -> None:
        if len(set(num_pairs)) < len(num_pairs):
            raise ValueError(f"{self.title}: num_pairs must differ, got {list(num_pairs)}")
        try:
            kinds = [Settings(pairs, num_queries, vocab_size, num_blanks) for pairs in num_pairs]
        except ValueError as error:
            raise ValueError(f"{self.title}: {error}") from None
        names = [f"{pairs}_pairs" for pairs in num_pairs]
        super().__init__(
            kinds, dict(zip(names, kinds, strict=True)), vocab_size=vocab_size, **given
        )
        self.num_pairs = list(num_pairs)

    @property
    def dataset(self) -> str:
        """Its name with the numbers of pairs; the task itself is generated."""
        pairs = "+".join(map(str, self.num_pairs))
        return f"CrossRecall-N{pairs}-V{self.vocab_size}"

    def rules(self, rows: Questions) -> dict[str, np.ndarray]:
        """What knowing the values but not their keys gives, and the place of the last."""
        values = rows.context[:, 1::2]
        return {
            "any value of the context": (values[:, None] == rows.answers[..., None]).mean(axis=2),
            "last value": rows.answers == values[:, -1:],
        }


class CrossRecall(Answerer):
    """Answer each key with its value."""

    backbone = "joined"
    network_of = JoinedModel
