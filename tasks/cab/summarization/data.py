"""Documents and their summaries as token numbers: Multi-News, or generated.

Source: Fabbri et al., "Multi-News", ACL 2019, arXiv:1906.01749; files are read by
`tasks.cab.summarization.multi_news`.
Departs from CAB: the tokenizer is trained on the training split by default; CAB's is BART's.

Generated documents need every attention of an encoder-decoder. A document is a headline of three
topics and, in random order, sentences of one word each: for each of four or five topics who it is
about, and what happened to that one. Its summary names whom the headline's topics are about, in its
order, and then what happened to each:

    document  topic4 topic1 topic6  actor7event2 topic1actor3 topic4actor7 actor5event2 ...
    summary   actor7 actor3 actor5  event2 event6 event2

Without cross-attention nothing of the document is known. Whom topic4 is about must be found by the
encoder: the decoder, which reads topic4 in the headline, reads only once in its one layer. What
happened to actor7 the decoder can look up by itself, but only by its self-attention does it know
that actor7, three tokens earlier, is due.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from tokenizers import Tokenizer, models
from torch import Tensor

from tasks.data import TaskData, check_counts
from tasks.tokenizer import published_tokenizer, train_byte_bpe

BEGIN, PAD, END = SPECIAL = ("<s>", "<pad>", "</s>")
"""The marks, named and numbered as in BART."""
IGNORED = -100
"""The label of padding: what torch's cross-entropy leaves out."""
HEADLINE, MIN_TOPICS, MAX_TOPICS = 3, 4, 5
TOPICS = ACTORS = EVENTS = 8
EVAL_ROWS = 512


class Batch(NamedTuple):
    """Documents with summaries.

    Attributes:
        source: Token numbers (B, N), each document ending with `</s>`.
        source_padding: Bool (B, N), True for padding; None where there is none.
        target: Token numbers (B, M), what the decoder reads: `<s>` and the summary.
        target_padding: Bool (B, M), or None.
        labels: (B, M), what it shall say: the summary and `</s>`, then `IGNORED`.
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
        ends = self.ends[rows]
        starts = torch.where(rows > 0, self.ends[rows - 1], 0)
        places = starts[:, None] + torch.arange(int((ends - starts).max()))
        padding = places >= ends[:, None]
        tokens = self.tokens[places.masked_fill(padding, 0)].long()
        return tokens.masked_fill(padding, fill), padding


class Documents:
    """The rows of one split.

    Args:
        sources: Documents.
        targets: Summaries, each ending with `</s>`.
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

    def first(self, num_rows: int) -> "Documents":
        """The first rows."""
        sources, targets = self.sources.first(num_rows), self.targets.first(num_rows)
        return Documents(sources, targets, self.tokenizer, self.summaries)


class SummarizationData(TaskData):
    """Splits of documents with summaries, cut to their longest lengths.

    Args:
        source: "generated", "hub", or a folder with Multi-News.
        max_source_len: A document is cut to so many tokens, with its `</s>`.
        max_target_len: A summary is cut to so many, with its `</s>`.
        tokenizer: A published one, for example `facebook/bart-base`, or the path of a
            tokenizer.json; None to train one on the training split.
        vocab_size: Of the tokenizer that is trained.
        num_train: Generated training rows.
        max_test_items: Only so many test rows, the first; None for all.
        **loading: See `TaskData`.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self,
        *,
        source: str,
        max_source_len: int,
        max_target_len: int,
        tokenizer: str | None = None,
        vocab_size: int = 50_265,
        num_train: int = 8192,
        max_test_items: int | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_counts(
            max_source_len=max_source_len,
            max_target_len=max_target_len,
            num_train=num_train,
            max_test_items=max_test_items,
        )
        self.source = source
        self.max_source_len = max_source_len
        self.max_target_len = max_target_len
        self.tokenizer_name = tokenizer
        self.vocab_size = vocab_size
        self.num_train = num_train
        self.max_test_items = max_test_items
        self.tokenizer: Tokenizer | None = None
        self.is_complete = False

    @property
    def dataset(self) -> str:
        """Multi-News, marked where it is only a part; or what is generated."""
        if self.source == "generated":
            return "lookups-synthetic"
        return "Multi-News" if self.is_complete else "Multi-News-sample"

    @property
    def facts(self) -> dict[str, Any]:
        """The tokenizer, and the longest lengths."""
        return {
            "tokenizer": self.tokenizer,
            "max_source_len": self.max_source_len,
            "max_target_len": self.max_target_len,
        }

    def setup(self, stage: str | None = None) -> None:
        """Read or generate all splits, once."""
        if self.tokenizer is None:
            splits = self._generated() if self.source == "generated" else self._read()
            self.train, self.validation, test = splits
            self.test = test if self.max_test_items is None else test.first(self.max_test_items)

    def _generated(self) -> list[Documents]:
        longest = HEADLINE + 2 * MAX_TOPICS + 1, 2 * HEADLINE + 1
        if self.max_source_len < longest[0] or self.max_target_len < longest[1]:
            raise ValueError(
                f"generated documents have up to {longest[0]} tokens and summaries {longest[1]}, "
                f"got max_source_len {self.max_source_len} and max_target_len "
                f"{self.max_target_len}"
            )
        self.tokenizer = tokenizer = generated_tokenizer()
        splits = []
        # The evaluation rows are the same for every seed, and never those of training.
        for num_rows, seed in (self.num_train, self.seed + 2), (EVAL_ROWS, 0), (EVAL_ROWS, 1):
            sources, targets = generate(num_rows, seed)
            texts = tokenizer.decode_batch(targets.tokens.view(num_rows, -1).tolist())
            splits.append(Documents(sources, targets, tokenizer, texts if splits else None))
        return splits

    def _read(self) -> list[Documents]:
        # Imported here: `datasets` takes longer to import than a generated run to prepare.
        from tasks.cab.summarization import multi_news

        splits = multi_news.read(self.source)
        self.is_complete = len(splits["train"]) == multi_news.OFFICIAL_TRAIN_ROWS
        if self.tokenizer_name is None:
            texts = multi_news.texts(splits["train"])
            tokenizer = train_byte_bpe(texts, vocab_size=self.vocab_size, special_tokens=SPECIAL)
        else:
            tokenizer = published_tokenizer(self.tokenizer_name, special_tokens=SPECIAL)
        self.tokenizer = tokenizer
        lens = self.max_source_len, self.max_target_len
        documents = []
        for split, rows in splits.items():
            source, target = (
                Ragged(torch.from_numpy(tokens), torch.from_numpy(ends))
                for tokens, ends in multi_news.tokenize(rows, tokenizer, END, *lens)
            )
            summaries = None if split == "train" else cast(Sequence[str], rows["summary"])
            documents.append(Documents(source, target, tokenizer, summaries))
        return documents


def mark_numbers(tokenizer: Tokenizer) -> list[int]:
    """The token numbers of `SPECIAL`."""
    numbers = tokenizer.get_vocab()
    return [numbers[mark] for mark in SPECIAL]


def generated_tokenizer() -> Tokenizer:
    """One number for each mark and word."""
    topics, actors, events = (
        [f"{kind}{number}" for number in range(count)]
        for kind, count in (("topic", TOPICS), ("actor", ACTORS), ("event", EVENTS))
    )
    about = [topic + actor for topic in topics for actor in actors]
    happened = [actor + event for actor in actors for event in events]
    words = [*SPECIAL, *topics, *actors, *events, *about, *happened]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def generate(num_rows: int, seed: int) -> tuple[Ragged, Ragged]:
    """Documents and summaries as the module describes them, numbered as `generated_tokenizer`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Tensor:
        return torch.rand(num_rows, size, generator=generator)

    first_topic = len(SPECIAL)
    first_actor = first_topic + TOPICS
    first_event = first_actor + ACTORS
    first_about = first_event + EVENTS
    first_happened = first_about + TOPICS * ACTORS
    # All (rows, MAX_TOPICS); no two topics of a document are about the same actor.
    topics = draw(TOPICS).argsort(dim=1)[:, :MAX_TOPICS]
    actors = draw(ACTORS).argsort(dim=1)[:, :MAX_TOPICS]
    events = (draw(MAX_TOPICS) * EVENTS).long()
    num_topics = MIN_TOPICS + (draw(1) * (MAX_TOPICS - MIN_TOPICS + 1)).long()
    is_absent = (torch.arange(MAX_TOPICS) >= num_topics).repeat(1, 2)
    about = first_about + topics * ACTORS + actors
    happened = first_happened + actors * EVENTS + events
    order = draw(2 * MAX_TOPICS).argsort(dim=1)
    sentences = torch.cat([about, happened], dim=1).gather(1, order)

    end = torch.full((num_rows, 1), SPECIAL.index(END))
    headline = slice(0, HEADLINE)
    source = torch.cat([first_topic + topics[:, headline], sentences, end], dim=1)
    is_gap = torch.zeros_like(source, dtype=torch.bool)
    is_gap[:, HEADLINE:-1] = is_absent.gather(1, order)
    summary = [first_actor + actors[:, headline], first_event + events[:, headline], end]
    target = torch.cat(summary, dim=1)
    return Ragged.of(source, is_gap), Ragged.of(target, torch.zeros_like(target).bool())
