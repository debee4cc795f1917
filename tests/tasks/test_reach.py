"""How far models see, by what changes their logits: known beforehand, and without training."""

import functools
from typing import Any

import numpy as np
import pytest
import torch

from attentions.base import Pattern
from attentions.sparse.local_window import LocalWindowAttention
from tasks.backbones.recall import RecallModel
from tasks.base import AttentionSlots
from tasks.diagnostics.answers import Answers, Batch
from tasks.diagnostics.mqar.generate import Settings, generate
from tests.tasks.building import build_data, build_model

MQAR = Settings(seq_len=64, num_pairs=8, vocab_size=64)
ROWS = generate(0, 100, MQAR)
DISTANCES = ROWS.positions - (2 * np.arange(8) + 1)
"""From each query back to the value that answers it, (rows, N)."""


@pytest.mark.parametrize(
    ("window", "num_layers", "short_conv"), [(8, 1, None), (24, 1, None), (12, 2, None), (20, 1, 3)]
)
def test_a_window_sees_the_answers_whose_distance_is_below_it(
    window: int, num_layers: int, short_conv: int | None
) -> None:
    """So its accuracy is their share at best, chance aside; layers and a convolution add reach."""
    slots = AttentionSlots(
        functools.partial(LocalWindowAttention, window=window), Pattern.CAUSAL_SELF
    )
    model = RecallModel(
        slots,
        64,
        seq_len=64,
        embed_dim=8,
        num_layers=num_layers,
        positions="none",
        short_conv=short_conv,
    ).double()
    tokens, positions = (torch.from_numpy(part).long() for part in ROWS[:2])
    with torch.no_grad():
        expected = model(tokens, positions)
        seen = []
        for pair in range(8):  # another value for each pair in turn
            other = tokens.clone()
            other[:, 2 * pair + 1] = 32 + (other[:, 2 * pair + 1] + 1) % 32
            at_query = (model(other, positions) - expected)[:, pair]
            seen.append((at_query != 0).any(dim=1))
    is_near = num_layers * (window - 1) + (short_conv or 1) > DISTANCES
    assert np.array_equal(torch.stack(seen, dim=1), is_near)
    assert 0.05 < is_near.mean() < 0.95


@pytest.mark.parametrize("window", [16, 24, 32, 48])
def test_the_first_pair_is_within_a_window_as_often_as_the_law_of_the_slots_says(
    window: int,
) -> None:
    made = generate(1, 8000, MQAR)
    law = np.arange(1, 25) ** (MQAR.power - 1)
    share = law[: max(0, (window - 14) // 2)].sum() / law.sum()  # slot i is 13 + 2 i away
    near = (made.positions[:, 0] - 1 < window).mean()
    assert abs(near - share) < 4 * (0.25 / 8000) ** 0.5


def some_rows(data: Any) -> Batch:
    """Test rows of one shape."""
    return (data.test if isinstance(data.test, Answers) else data.test.members[0]).every()


CASES = [
    *(("mad/tiny", 3), ("mad/fuzzy_recall", 1), ("mad/memorization", 1), ("mad/noisy_recall", 1)),
    *(("mad/selective_copying", 1), ("mqar/tiny", 1), ("copying/tiny", 1), ("induction/tiny", 3)),
    ("selective_copying/tiny", 1),
]
"""Tasks, and how many tokens a model of theirs sees without mixing: those of its convolution."""


@pytest.mark.parametrize(("name", "width"), CASES)
def test_without_mixing_only_the_convolution_sees_earlier_tokens(name: str, width: int) -> None:
    data = build_data(name, num_train=64, num_eval=12)
    model = build_model(name, data, "none", "causal_self").double().eval()
    batch = some_rows(data)
    read = batch.positions[:, -1:]
    place = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens)
    with torch.no_grad():
        expected = model.network(batch.tokens, read)
        for nearest, changes in ((width, False), (width - 1, True)):
            other = torch.where(place > read - nearest, batch.tokens, (batch.tokens + 1) % 8)
            assert torch.equal(model.network(other, read), expected) != changes


def test_without_mixing_a_context_is_not_seen() -> None:
    for name in ("mqar/tiny", "selective_copying/tiny", "induction/tiny", "copying/tiny"):
        for pattern in (Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS):
            data = build_data(name, pattern, num_train=64, num_eval=12)
            model = build_model(name, data, "none", pattern).eval()
            batch = some_rows(data)
            assert batch.context is not None
            with torch.no_grad():
                expected = model.network(*batch[:2], batch.context)
                assert torch.equal(model.network(*batch[:2], batch.context * 0), expected)
