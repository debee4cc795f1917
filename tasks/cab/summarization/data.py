"""Documents and their summaries as token numbers: Multi-News, or generated.

Source: Fabbri et al., "Multi-News", ACL 2019, arXiv:1906.01749; files are read by
`tasks.cab.summarization.multi_news`.
Departs from CAB: the tokenizer is trained on the training split by default; CAB's is BART's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer

from tasks.cab.summarization.documents import END, SPECIAL, Documents, Ragged
from tasks.cab.summarization.generate import LONGEST, generate, generated_tokenizer
from tasks.cab.summarization.rouge import METRICS, rouge_f1
from tasks.data import TEST_SEED, VALIDATION_SEED, TaskData, check_counts
from tasks.rules.tokens import frequencies
from tasks.tokenizer import published_tokenizer, train_byte_bpe

EVAL_ROWS = 512


class SummarizationData(TaskData):
    """Splits of documents with summaries, cut to their longest lengths.

    Args:
        source: "generated", "hub", or a folder with Multi-News.
        max_source_len: A document is cut to so many tokens; its `</s>` is one of them.
        max_target_len: A summary is cut to so many; one that is longer has no `</s>`, as in CAB.
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

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """What the frequencies of the tokens tell, and the beginning of each document.

        The beginning is as long as the mean summary of training, as far as the test writes.
        """
        train, test = cast(Documents, self.train), cast(Documents, self.test)
        vocab_size = len(self.facts["tokenizer"].get_vocab())
        targets = train.targets.tokens.numpy(), test.targets.tokens.numpy()
        nll = frequencies(*targets, vocab_size)
        length = round(len(targets[0]) / len(train))
        rouge = np.array(
            [
                list(rouge_f1(lead, summary).values())
                for lead, summary in zip(test.leads(length), test.summaries or (), strict=True)
            ]
        ).mean(axis=0)
        of_lead: dict[str, float] = {**dict(zip(METRICS, rouge.tolist(), strict=True))}
        return {"frequency of tokens": {"nll": nll}, "lead": of_lead}

    def _generated(self) -> list[Documents]:
        if self.max_source_len < LONGEST[0] or self.max_target_len < LONGEST[1]:
            raise ValueError(
                f"generated documents have up to {LONGEST[0]} tokens and summaries {LONGEST[1]}, "
                f"got max_source_len {self.max_source_len} and max_target_len "
                f"{self.max_target_len}"
            )
        self.tokenizer = tokenizer = generated_tokenizer()
        splits = []
        evaluation = (EVAL_ROWS, VALIDATION_SEED), (EVAL_ROWS, TEST_SEED)
        for num_rows, seed in (self.num_train, self.seed), *evaluation:
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
