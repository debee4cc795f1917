"""Books in blocks of whole lines, some of whose tokens are masked.

Source: see `tasks.cab.books.pg19`; blocks as fairseq's TokenBlockDataset cuts them with the break
mode `complete`, masks as its MaskTokensDataset draws them.
Departs from them: a line longer than a block is cut, and makes no block that is longer still; at
least one token of a block is masked, where theirs has none in some blocks of six and fewer; a
random token may be a mark of a book's end, and not the mask.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tasks.cab.books.data import RULE_TOKENS, BooksData
from tasks.cab.books.streams import SPLITS
from tasks.data import TEST_SEED, VALIDATION_SEED, check_counts
from tasks.rules.tokens import frequencies

IGNORED = -100
"""The target of a token that is not asked for: what torch's cross-entropy leaves out."""
MARKS = BEGIN, PAD, MASK = range(3)
"""Behind the numbers of the tokenizer: what begins a block, fills it up, and hides a token."""


class Batch(NamedTuple):
    """Blocks.

    Attributes:
        tokens: Token numbers (B, N), masked.
        padding: Bool (B, N), True for padding; None where there is none.
        targets: (B, N), what stood where a token is asked for, `IGNORED` elsewhere.
    """

    tokens: Tensor
    padding: Tensor | None
    targets: Tensor


class Masking(NamedTuple):
    """How tokens are hidden.

    Attributes:
        mask_prob: Share of the tokens of a block that are asked for.
        keep_prob: Share of those that stand there as they are.
        random_prob: Share of those that a random token stands for; the mask stands for the rest.
    """

    mask_prob: float = 0.15
    keep_prob: float = 0.1
    random_prob: float = 0.1

    def check(self) -> None:
        """Raise ValueError for shares that are none."""
        if not 0 < self.mask_prob <= 1:
            raise ValueError(f"mask_prob must be above 0 and at most 1, got {self.mask_prob}")
        if min(self[1:]) < 0 or sum(self[1:]) > 1:
            raise ValueError(
                "keep_prob and random_prob must be at least 0 and together at most 1, got "
                f"{self.keep_prob} and {self.random_prob}"
            )

    def draw(
        self, tokens: np.ndarray, vocab_size: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mask the tokens (N,) of one block, of which every one can be asked for.

        Args:
            vocab_size: Of the tokenizer; the mask is behind it.

        Returns:
            What is read (N,), and what is asked for, bool (N,).
        """
        length = len(tokens)
        count = max(1, int(self.mask_prob * length + rng.random()))  # rounded at random
        is_asked = np.zeros(length, dtype=bool)
        is_asked[rng.choice(length, count, replace=False)] = True
        unmasked = self.keep_prob + self.random_prob
        is_odd = is_asked & (rng.random(length) < unmasked)
        is_kept = is_odd & (rng.random(length) * unmasked < self.keep_prob)
        is_random = is_odd & ~is_kept
        read = np.where(is_asked & ~is_kept, vocab_size + MASK, tokens)
        read[is_random] = rng.integers(vocab_size, size=is_random.sum())
        return read, is_asked


class MaskedBlocks:
    """Blocks of a stream, masked alike each time.

    Args:
        stream: Token numbers (tokens,).
        ends: Where the blocks end, each behind the other, int64 (blocks,).
        vocab_size: Of the tokenizer.
        masking: How tokens are hidden.
        seed: Of the masks, with the number of the row.
    """

    def __init__(
        self, stream: np.ndarray, ends: np.ndarray, vocab_size: int, masking: Masking, seed: int
    ) -> None:
        self.stream, self.ends = stream, ends
        self.vocab_size, self.masking, self.seed = vocab_size, masking, seed

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, rows: Tensor) -> Batch:
        drawn = [self.draw(row) for row in rows.tolist()]
        longest = max(len(read) for read, _ in drawn)
        tokens = torch.full((len(drawn), longest), self.vocab_size + PAD)
        targets = torch.full_like(tokens, IGNORED)
        padding = torch.ones_like(tokens, dtype=torch.bool)
        for i, (read, asked) in enumerate(drawn):
            tokens[i, : len(read)] = torch.from_numpy(read)
            targets[i, : len(read)] = torch.from_numpy(asked)
            padding[i, : len(read)] = False
        return Batch(tokens, padding if padding.any() else None, targets)

    def block(self, row: int) -> np.ndarray:
        """The tokens of a block (N,), with the mark of its beginning."""
        row %= len(self)
        start = self.ends[row - 1] if row else 0
        return np.append(self.vocab_size + BEGIN, self.stream[start : self.ends[row]])

    def draw(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """What is read of a block and what is asked for (N,), `IGNORED` elsewhere."""
        tokens = self.block(row).astype(np.int64)
        rng = np.random.default_rng([self.seed, row])
        read, is_asked = self.masking.draw(tokens, self.vocab_size, rng)
        return read, np.where(is_asked, tokens, IGNORED)


class BlocksMaskedAnew(MaskedBlocks):
    """Blocks masked differently in each epoch, also by processes that know of none.

    The rows of an epoch are numbered behind those of the one before.
    """

    def parts(self, epoch: int) -> list[Tensor]:
        """The row numbers of an epoch; see `tasks.data.EpochBatches`."""
        return [torch.arange(len(self)) + epoch * len(self)]


def whole_lines(stream: np.ndarray, is_line_end: np.ndarray, length: int) -> np.ndarray:
    """Where blocks of up to `length` tokens end (blocks,): each takes as many lines as fit.

    Args:
        stream: Token numbers (tokens,).
        is_line_end: Bool (vocabulary,), the tokens that end a line.
        length: A longer line is cut behind as many tokens.
    """
    ends, start = [], 0
    while start + length < len(stream):
        inside = np.flatnonzero(is_line_end[stream[start : start + length]])
        start += int(inside[-1]) + 1 if len(inside) else length
        ends.append(start)
    return np.array([*ends, len(stream)], dtype=np.int64)


class MaskedLanguageModelingData(BooksData):
    """Masked blocks of books.

    Args:
        seq_len: The most tokens of a block, with the mark of its beginning.
        mask_prob: See `Masking`, as `keep_prob` and `random_prob`.
        **reading: See `BooksData`.

    Raises:
        ValueError: If a number is out of its range.
    """

    train: BlocksMaskedAnew
    validation: MaskedBlocks
    test: MaskedBlocks

    def __init__(
        self,
        *,
        seq_len: int,
        mask_prob: float = 0.15,
        keep_prob: float = 0.1,
        random_prob: float = 0.1,
        **reading: Any,
    ) -> None:
        super().__init__(**reading)
        check_counts(seq_len=seq_len)
        if seq_len < 2:
            raise ValueError(f"seq_len must hold a token behind the mark, got {seq_len}")
        self.seq_len = seq_len
        self.masking = Masking(mask_prob, keep_prob, random_prob)
        self.masking.check()

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes; the vocabulary has the marks behind it."""
        return {"vocab_size": self.books.vocab_size + len(MARKS), "seq_len": self.seq_len}

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """What the frequencies of the tokens tell, of those that the test asks for."""
        # A mark begins each block, and is asked for like any other token.
        begin, blocks = self.books.vocab_size + BEGIN, self.train
        num_blocks = int(np.searchsorted(blocks.ends, RULE_TOKENS, side="right")) or 1
        train = [blocks.stream[: blocks.ends[:num_blocks][-1]], np.full(num_blocks, begin)]
        asked = np.concatenate([self.test.draw(row)[1] for row in range(len(self.test))])
        nll = frequencies(np.concatenate(train), asked[asked != IGNORED], begin + 1)
        return {"frequency of tokens": {"perplexity": math.exp(nll)}}

    def setup(self, stage: str | None = None) -> None:
        """Cut the streams into blocks."""
        self.prepare_data()
        vocab_size = self.books.vocab_size
        is_line_end = np.zeros(vocab_size, dtype=bool)
        is_line_end[self.books.line_ends] = True
        kinds = (BlocksMaskedAnew, self.seed), (MaskedBlocks, VALIDATION_SEED)
        kinds = *kinds, (MaskedBlocks, TEST_SEED)
        for split, (kind, seed) in zip(SPLITS, kinds, strict=True):
            stream = getattr(self.books, split).tokens
            ends = whole_lines(stream, is_line_end, self.seq_len - 1)
            setattr(self, split, kind(stream, ends, vocab_size, self.masking, seed))

    def test_dataloader(self) -> list[DataLoader]:  # type: ignore[override]
        """The test rows, then those of validation, whose score is CAB's."""
        return [
            self._loader(rows, self.eval_batch_size, training=False)
            for rows in (self.test, self.validation)
        ]
