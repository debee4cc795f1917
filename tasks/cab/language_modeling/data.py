"""Streams of books in windows: blocks to train and score on, and windows that end on set targets.

Source: see `tasks.cab.books.pg19`; generated books are those of `tasks.cab.books.generate`.
Departs from CAB in how other lengths than the training length are scored: there the test stream is
cut into blocks of each length, so that a short length also means more tokens near the start of a
block, without context. Here every length of `context_lens` is scored on the same tokens, each with
a context that is full but for the last few; those of `cold_lens` are scored as in CAB.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tasks.cab.books.data import RULE_TOKENS, BooksData
from tasks.cab.books.streams import SPLITS
from tasks.data import check_counts
from tasks.rules.tokens import frequencies

IGNORED = -100
"""The target behind the end of the stream: what torch's cross-entropy leaves out."""


class Batch(NamedTuple):
    """Windows.

    Attributes:
        tokens: int64 (B, N).
        targets: The token after each of the last K, int64 (B, K); `IGNORED` where there is none.
    """

    tokens: Tensor
    targets: Tensor


class Windows:
    """Windows of a stream, whole batches at once.

    Args:
        stream: Token numbers (tokens,).
        starts: Where the windows begin, int64 (windows,).
        length: Their length N. What reaches beyond the end of the stream is zero, and no target.
        num_targets: K of `Batch`.
    """

    def __init__(self, stream: np.ndarray, starts: Tensor, length: int, num_targets: int) -> None:
        self.stream, self.starts = stream, starts
        self.offsets = torch.arange(length + 1)
        self.num_targets = num_targets

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, rows: Tensor) -> Batch:
        places = self.starts[rows][:, None] + self.offsets  # (B, N + 1)
        behind = places >= len(self.stream)
        taken = self.stream[places.masked_fill(behind, 0).numpy()].astype(np.int64)
        tokens = torch.from_numpy(taken)
        targets = tokens.masked_fill(behind, IGNORED)[:, -self.num_targets :]
        return Batch(tokens[:, :-1].masked_fill(behind[:, :-1], 0), targets)


def blocks(stream: np.ndarray, length: int, *, keep_last: bool) -> Windows:
    """The stream cut into blocks, whatever books end inside them; every token a target.

    Args:
        keep_last: Whether the last block, which may be shorter, is kept.
    """
    num_targets = len(stream) - 1
    end = num_targets if keep_last else num_targets - length + 1
    return Windows(stream, torch.arange(0, max(end, 0), length), length, length)


def sliding(
    stream: np.ndarray, length: int, *, max_len: int, num_spans: int, span_len: int
) -> Windows:
    """Windows of `length` whose last `span_len` targets are the same for every length.

    The spans of targets are spread evenly over what is left of the stream behind its first
    `max_len` tokens. The first target of a span has `length` - `span_len` + 1 tokens of context,
    the last one `length`.

    Raises:
        ValueError: If the stream is too short for spans that do not overlap, or a span is longer
            than `length`.
    """
    first, last = max_len, len(stream) - span_len
    if span_len > length:
        raise ValueError(f"span_len must be at most the context length {length}, got {span_len}")
    if last - first < (num_spans - 1) * span_len:
        raise ValueError(
            f"the test books have {len(stream)} tokens, too few for {num_spans} spans of "
            f"{span_len} targets behind a context of {max_len}: they must have "
            f"{max_len + num_spans * span_len}"
        )
    spans = torch.linspace(first, last, num_spans, dtype=torch.float64).long()
    return Windows(stream, spans + span_len - 1 - length, length, span_len)


class LanguageModelingData(BooksData):
    """Blocks of books.

    Args:
        seq_len: Tokens of a block.
        context_lens: The lengths to score by `sliding`, which explains `num_spans` and `span_len`.
        cold_lens: The lengths to score in blocks of their own, as in CAB.
        **reading: See `BooksData`.

    Raises:
        ValueError: If a number is not positive.
    """

    train: Windows
    validation: Windows
    test: Windows

    def __init__(
        self,
        *,
        seq_len: int,
        context_lens: Sequence[int] = (),
        num_spans: int = 1,
        span_len: int = 1,
        cold_lens: Sequence[int] = (),
        **reading: Any,
    ) -> None:
        super().__init__(**reading)
        check_counts(
            seq_len=seq_len,
            num_spans=num_spans,
            span_len=span_len,
            context_lens=min(context_lens, default=None),
            cold_lens=min(cold_lens, default=None),
        )
        self.seq_len = seq_len
        self.context_lens, self.cold_lens = list(context_lens), list(cold_lens)
        self.num_spans, self.span_len = num_spans, span_len
        self.lengths: list[tuple[int, Windows]] = []

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes, and how many bytes of text a test token stands for."""
        test = self.books.test
        return {
            "vocab_size": self.books.vocab_size,
            "seq_len": self.seq_len,
            "context_lens": self.context_lens,
            "cold_lens": self.cold_lens,
            "bytes_per_token": test.num_bytes / len(test.tokens),
        }

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """What the frequencies of the tokens tell."""
        train, test = self.books.train.tokens, self.books.test.tokens
        nll = frequencies(train[:RULE_TOKENS], test[1:], self.books.vocab_size)
        bits = nll / math.log(2) / self.facts["bytes_per_token"]
        return {"frequency of tokens": {"perplexity": math.exp(nll), "bits_per_byte": bits}}

    def setup(self, stage: str | None = None) -> None:
        """Cut the streams into blocks and windows."""
        self.prepare_data()
        streams = [getattr(self.books, split).tokens for split in SPLITS]
        for split, stream in zip(SPLITS, streams, strict=True):
            if len(stream) <= self.seq_len:
                raise ValueError(
                    f"the {split} books of {self.source} have {len(stream)} tokens, too few for "
                    f"one block of seq_len {self.seq_len} and the token after it"
                )
        train, validation, test = streams
        self.train = blocks(train, self.seq_len, keep_last=False)
        self.validation = blocks(validation, self.seq_len, keep_last=True)
        self.test = blocks(test, self.seq_len, keep_last=True)
        spans = {"num_spans": self.num_spans, "span_len": self.span_len}
        self.lengths = [
            (length, sliding(test, length, max_len=max(self.context_lens), **spans))
            for length in self.context_lens
        ]
        self.lengths += [(n, blocks(test, n, keep_last=True)) for n in self.cold_lens]

    def test_dataloader(self) -> list[DataLoader]:  # type: ignore[override]
        """The blocks, then every further length, with as many tokens in a batch.

        Those of `context_lens` come first, then those of `cold_lens`.
        """
        tokens = self.eval_batch_size * self.seq_len
        loaders = [self._loader(self.test, self.eval_batch_size, training=False)]
        for length, windows in self.lengths:
            loaders.append(self._loader(windows, max(1, tokens // length), training=False))
        return loaders
