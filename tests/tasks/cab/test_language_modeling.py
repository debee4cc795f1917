"""Language modelling: which tokens are scored, with which context, and what becomes of them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.backbones.positions import Positions
from tasks.cab.language_modeling.data import (
    IGNORED,
    Batch,
    LanguageModelingData,
    Windows,
    blocks,
    sliding,
)
from tasks.cab.language_modeling.task import LanguageModeling
from tests.tasks.building import build_data, build_model, quiet_trainer

STREAM = np.arange(1000, 1103, dtype=np.uint16)  # 103 tokens, each its place + 1000
SMALL = {"embed_dim": 16, "num_heads": 2, "ffn_dim": 16}


def every(windows: Windows) -> Batch:
    return windows[torch.arange(len(windows))]


def data(**changes: Any) -> LanguageModelingData:
    return build_data("language_modeling/tiny", **changes)


def task(
    rows: LanguageModelingData, attention: str = "softmax", **changes: Any
) -> LanguageModeling:
    return build_model(
        "language_modeling/tiny", rows, attention, "causal_self", **{**SMALL, **changes}
    )


@pytest.mark.parametrize("length", [1, 10, 17, 34, 102, 500])
def test_evaluation_blocks_score_every_token_but_the_first_once(length: int) -> None:
    batch = every(blocks(STREAM, length, keep_last=True))
    scored = batch.targets[batch.targets != IGNORED]
    assert scored.tolist() == list(range(1001, 1103))
    real = batch.targets != IGNORED
    assert (batch.targets[real] == batch.tokens[real] + 1).all()
    assert batch.tokens.shape == batch.targets.shape == (math.ceil(102 / length), length)


def test_training_blocks_are_whole() -> None:
    batch = every(blocks(STREAM, 10, keep_last=False))
    assert batch.tokens.flatten().tolist() == list(range(1000, 1100))
    assert (batch.targets == batch.tokens + 1).all()
    assert len(blocks(STREAM, 102, keep_last=False)) == 1
    assert len(blocks(STREAM, 103, keep_last=False)) == 0


def test_every_context_length_scores_the_same_tokens_and_sees_those_before_them() -> None:
    spans = {"max_len": 40, "num_spans": 12, "span_len": 5}
    scored = {}
    for length in (5, 17, 40):
        batch = every(sliding(STREAM, length, **spans))
        assert batch.tokens.shape == (12, length)
        assert (batch.tokens.diff(dim=1) == 1).all()
        assert (batch.targets == batch.tokens[:, -5:] + 1).all()
        scored[length] = batch.targets
    assert torch.equal(scored[5], scored[17])
    assert torch.equal(scored[5], scored[40])
    flat = scored[40].flatten()
    assert len(flat.unique()) == 60
    assert (flat[0], flat[-1]) == (1040, 1102)  # from the first with that context, to the last


def test_spans_may_stand_side_by_side_but_not_overlap() -> None:
    spans = {"max_len": 3, "span_len": 10}
    batch = every(sliding(STREAM, 10, num_spans=10, **spans))
    assert batch.targets.flatten().tolist() == list(range(1003, 1103))
    message = "103 tokens, too few for 11 spans of 10 .* they must have 113"
    with pytest.raises(ValueError, match=message):
        sliding(STREAM, 10, num_spans=11, **spans)


def test_a_span_longer_than_its_context_is_refused() -> None:
    with pytest.raises(ValueError, match="span_len must be at most the context length 4, got 5"):
        sliding(STREAM, 4, max_len=4, num_spans=1, span_len=5)


@pytest.mark.parametrize("name", ["seq_len", "num_spans", "span_len", "context_lens", "cold_lens"])
def test_sizes_must_be_positive(name: str) -> None:
    sizes: dict[str, Any] = {"seq_len": 8, name: [8, 0] if name.endswith("lens") else 0}
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        LanguageModelingData(source="generated", vocab_size=300, batch_size=1, **sizes)


def test_books_too_short_for_a_block_are_named(tmp_path: Path) -> None:
    for split, text in {"train": "a" * 99, "validation": "b" * 9, "test": "c" * 99}.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.txt").write_text(text)
    rows = {
        "source": str(tmp_path),
        "cache_dir": str(tmp_path),
        "context_lens": [],
        "cold_lens": [],
    }
    message = "the validation books of .* have 10 tokens, too few for one"
    with pytest.raises(ValueError, match=message):
        data(vocab_size=257, seq_len=10, **rows)
    ready = data(vocab_size=257, seq_len=9, batch_size=1, **rows)
    assert ready.dataset == "PG-19-sample"
    assert ready.facts == {
        "vocab_size": 257,
        "seq_len": 9,
        "context_lens": [],
        "cold_lens": [],
        "bytes_per_token": 99 / 100,
    }


def test_the_seed_moves_the_order_of_training_only() -> None:
    one, two = data(seed=0), data(seed=1)
    assert torch.equal(every(one.test).tokens, every(two.test).tokens)
    assert torch.equal(every(one.train).tokens, every(two.train).tokens)
    first, second = (next(iter(rows.train_dataloader())) for rows in (one, two))
    assert not torch.equal(first.tokens, second.tokens)


@torch.no_grad()
def nll(model: LanguageModeling, tokens: Tensor) -> Tensor:
    """The negative log-likelihood of each token of one text but the first, in float64."""
    logits = model.model.logits(model.model(tokens[None, :-1]))[0].double()
    chances = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    return -chances[torch.arange(len(tokens) - 1), tokens[1:]].log()


def test_the_perplexity_is_that_of_each_block_by_itself() -> None:
    rows = data(eval_batch_size=7)
    model = task(rows)
    tested = quiet_trainer().test(model, rows, verbose=False)[0]
    stream = torch.from_numpy(rows.test.stream.astype(np.int64))
    values = torch.cat([nll(model, stream[i : i + 65]) for i in range(0, len(stream) - 1, 64)])
    assert len(values) == len(stream) - 1
    expected = values.mean().exp()
    # float32 logits against float64 sums of them
    assert tested["perplexity"] == pytest.approx(float(expected), rel=1e-5)


def test_the_perplexity_by_context_is_that_of_each_window_by_itself() -> None:
    rows = data(context_lens=[16, 50, 128], num_spans=9, span_len=4, cold_lens=[])
    model = task(rows)
    quiet_trainer().test(model, rows, verbose=False)
    stream = torch.from_numpy(rows.test.stream.astype(np.int64))
    measured = {m["seq_len"]: m["value"] for m in model.measure()}
    assert list(measured) == [16, 50, 128]
    for length, value in measured.items():
        starts = np.linspace(128, len(stream) - 4, 9).astype(int)
        windows = [stream[s + 3 - length : s + 4] for s in starts]
        values = torch.cat([nll(model, window)[-4:] for window in windows])
        assert value == pytest.approx(float(values.mean().exp()), rel=1e-5)


def test_cabs_lengths_are_blocks_that_carry_no_context() -> None:
    rows = data(context_lens=[], cold_lens=[64, 11])
    model = task(rows)
    tested = quiet_trainer().test(model, rows, verbose=False)[0]
    longer, shorter = model.measure()
    assert (longer["metric"], longer["seq_len"]) == ("block_perplexity", 64)
    assert longer["value"] == pytest.approx(tested["perplexity"], rel=1e-9)
    stream = torch.from_numpy(rows.test.stream.astype(np.int64))
    values = torch.cat([nll(model, stream[i : i + 12]) for i in range(0, len(stream) - 1, 11)])
    assert len(values) == len(stream) - 1
    assert shorter["value"] == pytest.approx(float(values.mean().exp()), rel=1e-5)


def test_a_model_without_context_scores_the_same_at_every_length() -> None:
    """What is left is which tokens are scored: blocks of each length would not pass this."""
    rows = data(cold_lens=[])
    model = task(rows, "none")
    model.model.positions = Positions("none", 1000, 1, init_std=0.0)
    quiet_trainer().test(model, rows, verbose=False)
    first, *others = [m["value"] for m in model.measure()]
    assert len(others) == 2
    assert others == pytest.approx([first] * 2, rel=1e-6)
    assert first != pytest.approx(rows.facts["vocab_size"], rel=1e-3)


def test_an_even_guess_has_the_perplexity_of_the_vocabulary() -> None:
    rows = data()
    model = task(rows)
    torch.nn.init.zeros_(model.model.tokens.weight)
    tested = quiet_trainer().test(model, rows, verbose=False)[0]
    vocab_size = rows.facts["vocab_size"]
    assert tested["perplexity"] == pytest.approx(vocab_size, rel=1e-6)
    # A word of two syllables and its space is a token of five bytes; the mark has none.
    assert rows.facts["bytes_per_token"] == pytest.approx(500 / 101)
    assert tested["bits_per_byte"] == pytest.approx(math.log2(vocab_size) * 101 / 500, rel=1e-6)


def test_a_second_test_forgets_the_first() -> None:
    rows = data()
    model = task(rows)
    values = []
    for _ in range(2):
        quiet_trainer().test(model, rows, verbose=False)
        values.append([(m["value"], m["comment"]) for m in model.measure()])
    assert values[0] == values[1]
    assert "1024 tokens" in values[0][0][1]


def test_the_attentions_are_built_for_the_longest_context() -> None:
    rows = data()
    assert {a.max_len for a in task(rows).slots.under_test} == {128}
    short = {"context_lens": [], "cold_lens": []}
    assert {a.max_len for a in task(data(**short)).slots.under_test} == {64}


def test_the_learning_rate_warms_up_then_falls_as_the_inverse_square_root() -> None:
    model = task(data(), lr=1e-3, warmup_steps=100)
    rates = [1e-3 * model._schedule(step) for step in (0, 50, 100, 400, 10_000)]
    assert rates == pytest.approx([1e-7, 0.50005e-3, 1e-3, 0.5e-3, 0.1e-3])
    with pytest.raises(ValueError, match="warmup_steps must be positive, got 0"):
        task(data(), warmup_steps=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    # Guessing among the lexicon's 64 words is 64; among the four of a book that is known, 4.
    ("attention", "low", "high"),
    [("softmax", 4, 16), ("none", 36, 64)],
)
def test_tiny_tells_memory_from_none(attention: str, low: float, high: float) -> None:
    rows = data()
    model = build_model("language_modeling/tiny", rows, attention, "causal_self")
    fit = quiet_trainer(max_epochs=4, limit_train_batches=50)
    fit.fit(model, datamodule=rows)
    assert low < fit.test(model, rows, verbose=False)[0]["perplexity"] < high
