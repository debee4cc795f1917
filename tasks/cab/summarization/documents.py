"""Documents and their summaries as token numbers, of any length, in padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenizers import Tokenizer
from torch import Tensor

from tasks.ragged import places

BEGIN, PAD, END = SPECIAL = ("<s>", "<pad>", "</s>")
"""The marks, named and numbered as in BART."""
IGNORED = -100
"""The label of padding: what torch's cross-entropy leaves out."""


class Batch(NamedTuple):
    """Documents with summaries.

    Attributes:
        source: Token numbers (B, N), each document ending with `</s>` unless it was cut.
        source_padding: Bool (B, N), True for padding; None where there is none.
        target: Token numbers (B, M), what the decoder reads: `<s>` and the summary.
        target_padding: Bool (B, M), or None.
        labels: (B, M), what it shall say: the summary and, unless it was cut, `</s>`; then
            `IGNORED`.
        summaries: The B summaries as text; none in training.
    """

    source: Tensor
    source_padding: Tensor | None
    target: Tensor
    target_padding: Tensor | None
    labels: Tensor
    summaries: list[str]


@dataclass(frozen=True)
class Ragged:
    """Rows of token numbers, of different lengths, end to end.

    Attributes:
        tokens: (sum of lengths,), int32.
        ends: (rows,), where each row ends.
    """

    tokens: Tensor
    ends: Tensor

    @classmethod
    def of(cls, tokens: Tensor, is_gap: Tensor) -> "Ragged":
        """From rows (rows, length) and what to leave out of them, bool (rows, length)."""
        return cls(tokens[~is_gap].int(), (~is_gap).sum(dim=1).cumsum(dim=0))

    def first(self, num_rows: int) -> "Ragged":
        """The first rows."""
        ends = self.ends[:num_rows]
        return Ragged(self.tokens[: ends[-1]], ends)

    def padded(self, rows: Tensor, fill: int) -> tuple[Tensor, Tensor]:
        """The given rows as int64 (B, longest), and bool (B, longest), True for padding."""
        found, padding = places(self.ends, rows)
        return self.tokens[found].long().masked_fill(padding, fill), padding


class Documents:
    """The rows of one split.

    Args:
        sources: Documents.
        targets: Summaries, each ending with `</s>` unless it was cut.
        tokenizer: Numbers the marks.
        summaries: The summaries as text, where they are to be scored.
    """

    def __init__(
        self,
        sources: Ragged,
        targets: Ragged,
        tokenizer: Tokenizer,
        summaries: Sequence[str] | None = None,
    ) -> None:
        self.sources = sources
        self.targets = targets
        self.tokenizer = tokenizer
        self.summaries = summaries
        self.begin, self.pad, _ = mark_numbers(tokenizer)

    def __len__(self) -> int:
        return len(self.sources.ends)

    def __getitem__(self, rows: Tensor) -> Batch:
        source, source_padding = self.sources.padded(rows, self.pad)
        labels, target_padding = self.targets.padded(rows, self.pad)
        target = labels.roll(1, dims=1).masked_fill(target_padding, self.pad)
        target[:, 0] = self.begin
        summaries = self.summaries
        return Batch(
            source,
            source_padding if source_padding.any() else None,
            target,
            target_padding if target_padding.any() else None,
            labels.masked_fill(target_padding, IGNORED),
            [] if summaries is None else [summaries[int(row)] for row in rows],
        )

    def leads(self, length: int) -> list[str]:
        """The beginnings of the documents, of up to `length` tokens, as text."""
        starts = [0, *self.sources.ends[:-1].tolist()]
        tokens = [
            self.sources.tokens[start : min(start + length, end)].tolist()
            for start, end in zip(starts, self.sources.ends.tolist(), strict=True)
        ]
        return self.tokenizer.decode_batch(tokens, skip_special_tokens=True)

    def first(self, num_rows: int) -> "Documents":
        """The first rows."""
        sources, targets = self.sources.first(num_rows), self.targets.first(num_rows)
        summaries = None if self.summaries is None else self.summaries[:num_rows]
        return Documents(sources, targets, self.tokenizer, summaries)


def mark_numbers(tokenizer: Tokenizer) -> list[int]:
    """The token numbers of `SPECIAL`."""
    numbers = tokenizer.get_vocab()
    return [numbers[mark] for mark in SPECIAL]
