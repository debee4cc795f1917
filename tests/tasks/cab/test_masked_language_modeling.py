"""Masked language modelling: how books are cut and masked, and which tokens are scored."""

import functools
import itertools
import math
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cab.books.streams import END_OF_BOOK, Library, make_tokenizer
from tasks.cab.masked_language_modeling.data import (
    BEGIN,
    IGNORED,
    MASK,
    PAD,
    Batch,
    MaskedBlocks,
    MaskedLanguageModelingData,
    Masking,
    whole_lines,
)
from tasks.cab.masked_language_modeling.task import MaskedLanguageModeling
from tests.tasks.building import build_data, build_model, quiet_trainer
from tests.tasks.building import settings as tiny

TINY = "masked_language_modeling/tiny"
SMALL = {"embed_dim": 16, "num_heads": 2, "ffn_dim": 16}
ENDS_LINE = np.array([False] * 9 + [True])  # token 9 does


def every(rows: MaskedBlocks) -> Batch:
    return rows[torch.arange(len(rows))]


@functools.cache
def generated() -> Library:
    return build_data(TINY).books


def data(**changes: Any) -> MaskedLanguageModelingData:
    given = {**tiny(TINY)["data"], **changes}
    del given["_target_"]
    rows = MaskedLanguageModelingData(**given)
    if rows.source == "generated":
        rows.library = generated()
    rows.setup()
    return rows


def task(rows: MaskedLanguageModelingData, **changes: Any) -> MaskedLanguageModeling:
    return build_model(TINY, rows, "softmax", "noncausal_self", **{**SMALL, **changes})


def blocks_by_definition(lines: list[list[int]], length: int) -> list[list[int]]:
    """One line after the other, into a new block where it does not fit."""
    pieces = [line[i : i + length] for line in lines for i in range(0, len(line), length)]
    blocks = [pieces[0]]
    for before, piece in itertools.pairwise(pieces):
        # The end of a line that was cut is a block's beginning.
        is_cut = before[-1] != 9
        if is_cut or len(blocks[-1]) + len(piece) > length:
            blocks.append([])
        blocks[-1] += piece
    return blocks


@settings(deadline=None, max_examples=100)
@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=30), length=st.integers(1, 9))
def test_blocks_are_lines_that_fit(sizes: list[int], length: int) -> None:
    lines = [[*range(size)][:8] + [3] * max(0, size - 8) + [9] for size in sizes]
    stream = np.concatenate([np.array(line) for line in lines])
    ends = whole_lines(stream, ENDS_LINE, length)
    found = [part.tolist() for part in np.split(stream, ends[:-1])]
    assert found == blocks_by_definition(lines, length)


def test_a_stream_without_line_ends_is_cut_by_length() -> None:
    assert whole_lines(np.zeros(10, dtype=int), ENDS_LINE, 4).tolist() == [4, 8, 10]
    assert whole_lines(np.zeros(8, dtype=int), ENDS_LINE, 4).tolist() == [4, 8]


def test_masks_have_the_shares_of_the_paper() -> None:
    masking, rng = Masking(0.15, 0.1, 0.1), np.random.default_rng(0)
    tokens = np.arange(1000) % 50
    drawn = [masking.draw(tokens, 10**6, rng) for _ in range(400)]
    asked = np.stack([is_asked for _, is_asked in drawn])
    read = np.stack([read for read, _ in drawn])
    assert set(asked.sum(axis=1)) == {150}  # 0.15 x 1,000 is whole: nothing to round
    assert (read == tokens)[~asked].all()
    # 60,000 tokens: three deviations of a share of 0.1 are 0.004.
    assert (read == 10**6 + MASK)[asked].mean() == pytest.approx(0.8, abs=0.005)
    assert (read == tokens)[asked].mean() == pytest.approx(0.1, abs=0.004)
    swapped = read[asked & (read != tokens) & (read != 10**6 + MASK)]
    assert swapped.mean() == pytest.approx(5e5, rel=0.03)
    assert asked.mean(axis=0).max() < 0.25  # no token is asked for more than others


@pytest.mark.parametrize(("length", "counts"), [(10, {1, 2}), (1, {1}), (20, {3})])
def test_the_count_of_masked_tokens_is_rounded_at_random(length: int, counts: set[int]) -> None:
    rng = np.random.default_rng(0)
    found = [Masking().draw(np.arange(length), 99, rng)[1].sum() for _ in range(200)]
    assert set(found) == counts
    if length == 10:
        assert np.mean(found) == pytest.approx(1.5, abs=0.11)


def test_rows_are_whole_blocks_behind_their_mark() -> None:
    rows = data()
    vocab_size = rows.facts["vocab_size"] - 3
    batch = every(rows.test)
    whole = torch.where(batch.targets == IGNORED, batch.tokens, batch.targets)
    assert (whole[:, 0] == vocab_size + BEGIN).all()
    assert batch.padding is not None
    assert torch.equal(batch.padding, whole == vocab_size + PAD)
    assert whole[:, 1:][~batch.padding[:, 1:]].tolist() == rows.test.stream.tolist()
    assert batch.tokens.shape[1] <= 64
    lasts = [int(row[~padding][-1]) for row, padding in zip(whole, batch.padding, strict=True)]
    assert set(lasts) <= set(rows.books.line_ends)


def test_training_masks_are_new_in_each_epoch_and_the_same_when_resumed() -> None:
    def first(**changes: Any) -> list[Batch]:
        rows = data(**changes)
        batches = []
        for epoch in (0, 1):
            loader: Any = rows.train_dataloader()
            loader.sampler.set_epoch(epoch)
            batches.append(next(iter(loader)))
        rows.first_epoch = 1
        return [*batches, next(iter(rows.train_dataloader()))]

    one, two, resumed = first()
    assert torch.equal(two.targets, resumed.targets)
    assert torch.equal(two.tokens, resumed.tokens)
    assert not torch.equal(one.targets, two.targets)
    assert not torch.equal(first(seed=1)[0].targets, one.targets)
    rows = data().train
    again = rows[torch.tensor([5, 5 + len(rows)])]
    assert (rows.block(5) == rows.block(5 + len(rows))).all()
    assert not torch.equal(again.targets[0], again.targets[1])


def test_evaluation_masks_are_those_of_every_seed() -> None:
    one, other = data(seed=0), data(seed=1)
    for split in ("validation", "test"):
        a, b = every(getattr(one, split)), every(getattr(other, split))
        assert torch.equal(a.tokens, b.tokens)
        assert torch.equal(a.targets, b.targets)
    longest = min(len(one.validation), len(one.test))
    asked = [
        getattr(one, s)[torch.arange(longest)].targets != IGNORED for s in ("validation", "test")
    ]
    assert not torch.equal(asked[0], asked[1])


def test_the_perplexity_is_that_of_masked_tokens_whatever_the_batches() -> None:
    rows = data(eval_batch_size=7)
    model = task(rows)
    torch.nn.init.normal_(model.model.tokens.weight)
    tested = quiet_trainer().test(model, rows, verbose=False)[0]
    told = {}
    model.double()
    for split in ("test", "validation"):
        nll, part = [], getattr(rows, split)
        for row in range(len(part)):  # each alone, without padding
            batch = part[torch.tensor([row])]
            with torch.no_grad():
                logits = model.model.logits(model.model(batch.tokens))[0]
            chances = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
            (places,) = torch.nonzero(batch.targets[0] != IGNORED, as_tuple=True)
            nll.append(-chances[places, batch.targets[0, places]].log())
        told[split] = float(torch.cat(nll).mean().exp())
    # float32 logits against float64
    assert tested["perplexity"] == pytest.approx(told["test"], rel=1e-4)
    (measured,) = model.measure()
    assert (measured["metric"], measured["split"]) == ("perplexity", "validation")
    assert measured["value"] == pytest.approx(told["validation"], rel=1e-4)


def test_the_loss_is_the_mean_over_masked_tokens() -> None:
    rows = data()
    model = task(rows).eval()
    batch = next(iter(rows.train_dataloader()))
    loss, count = model.loss(batch)
    assert count == int((batch.targets != IGNORED).sum())
    logits = model.model.logits(model.model(batch.tokens, batch.padding))
    expected = torch.nn.functional.cross_entropy(logits.mT, batch.targets)
    torch.testing.assert_close(loss, expected)


def test_the_rule_knows_frequencies_alone() -> None:
    rows = data()
    vocab_size = rows.books.vocab_size
    stream = np.concatenate([rows.train.block(row) for row in range(len(rows.train))])
    counts = np.bincount(stream, minlength=vocab_size + 1) + 1
    targets = every(rows.test).targets
    asked = targets[targets != IGNORED].numpy()
    expected = math.exp(-np.log(counts / counts.sum())[asked].mean())
    assert rows.trivial_scores() == {"frequency of tokens": {"perplexity": pytest.approx(expected)}}


def test_the_learning_rate_rises_and_falls_in_lines() -> None:
    model = task(data(), lr=1.0, warmup_steps=4, total_steps=12)
    rates = [model._schedule(step) for step in (0, 1, 3, 4, 8, 12, 20)]
    assert rates == pytest.approx([0.25, 0.5, 1, 1, 0.5, 0, 0])
    with pytest.raises(ValueError, match="warmup_steps < total_steps is needed, got 9 and 9"):
        task(data(), warmup_steps=9, total_steps=9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 1}, "seq_len must hold a token behind the mark, got 1"),
        ({"mask_prob": 0.0}, "mask_prob must be above 0 and at most 1, got 0.0"),
        ({"keep_prob": 0.6, "random_prob": 0.5}, "together at most 1, got 0.6 and 0.5"),
    ],
)
def test_bad_settings_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data(**changes)


def write(folder: Path, **texts: str) -> dict[str, Any]:
    for split in ("train", "validation", "test"):
        (folder / split).mkdir()
        text = texts.get(split, "One line.\n\nAnd another.\n")
        (folder / split / "1.txt").write_text(text)
    return {"source": str(folder), "cache_dir": str(folder / "cache"), "vocab_size": 257}


def test_a_line_longer_than_a_block_is_cut_and_none_is_lost(tmp_path: Path) -> None:
    rows = data(**write(tmp_path, test="a" * 99 + "\nb\n"), seq_len=11)
    blocks = [rows.test.block(row)[1:] for row in range(len(rows.test))]
    assert [len(block) for block in blocks] == [10] * 10 + [3]
    tokens = np.concatenate(blocks)
    assert rows.dataset == "PG-19-sample"
    assert len(tokens) == 103 - 1 + 1  # bytes, and one mark of the end
    np.testing.assert_array_equal(tokens, rows.test.stream)


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the validation books are empty"):
        data(**write(tmp_path, validation=""))


def test_cabs_symbol_ends_each_line_in_place_of_its_break(tmp_path: Path) -> None:
    rows = data(**write(tmp_path, test="  A b \r\n\nc"), line_marks=True)
    library: Library = rows.books
    tokenizer = make_tokenizer(["One line.\n\nAnd another.\n"], None, 257, tmp_path / "t")
    end = tokenizer.token_to_id(END_OF_BOOK)
    lines = [tokenizer.encode(line).ids for line in ("A b", "", "c")]
    assert library.test.tokens.tolist() == [*lines[0], end, *lines[1], end, *lines[2], end]
    assert library.test.num_bytes == 10
    assert end in library.line_ends


@pytest.mark.slow
@pytest.mark.parametrize(
    # Guessing among the lexicon's 64 words is 64; among the four of a book that is known, 4.
    ("attention", "low", "high"),
    [("softmax", 4, 20), ("none", 28, 64)],
)
def test_tiny_tells_memory_from_none(attention: str, low: float, high: float) -> None:
    torch.manual_seed(0)
    rows = data()
    model = build_model(TINY, rows, attention, "noncausal_self")
    fit = quiet_trainer(max_epochs=4, limit_train_batches=50)
    fit.fit(model, datamodule=rows)
    assert low < fit.test(model, rows, verbose=False)[0]["perplexity"] < high


@pytest.mark.slow
def test_one_batch_of_real_books_is_learned_by_heart(real_data: Path, tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):  # the smallest of the files is enough
        copy(real_data / "pg19_like" / "test.parquet", tmp_path / f"{split}.parquet")
    source = {"source": str(tmp_path), "cache_dir": str(tmp_path / "cache")}
    rows = data(**source, vocab_size=400, seq_len=32)
    torch.manual_seed(0)
    model = task(rows, embed_dim=64, ffn_dim=128)
    batch = rows.train[torch.arange(8)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss, _ = model.loss(batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
