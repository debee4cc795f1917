"""Selective copying: the rows against their definition, in every pattern."""

import hashlib

import pytest
import torch

from tasks.diagnostics.selective_copying import Settings, generate
from tests.tasks.building import build_data


def test_the_answers_are_the_tokens_in_their_order() -> None:
    made = generate(0, 200, Settings(64, 16, 16))
    for tokens, answers in zip(made.tokens.tolist(), made.answers.tolist(), strict=True):
        assert [token for token in tokens[:64] if token < 14] == answers
        assert tokens[64:] == [15] * 16
    assert ((made.tokens < 14).mean(axis=0)[:64] > 0.1).all()  # everywhere: 16 of 64, 200 rows


def test_rows_are_the_same_on_every_machine() -> None:
    made = generate(7, 3, Settings(64, 16, 16))
    told = hashlib.sha256(b"".join(part.astype("<i4").tobytes() for part in made)).hexdigest()
    assert told[:16] == "0a3efdd0969f8232"


@pytest.mark.parametrize("pattern", ["causal_self", "noncausal_cross"])
def test_every_pattern_asks_for_the_same(pattern: str) -> None:
    data = build_data("selective_copying/tiny", pattern)
    batch = data.test[torch.arange(50)]
    asking = batch.tokens.gather(1, batch.positions)
    assert (asking == data.settings.vocab_size - 1).all()
    everything = batch.tokens if batch.context is None else batch.context
    shown = everything[everything < data.settings.vocab_size - 2].view(50, -1)
    assert torch.equal(shown, batch.answers)
    assert data.facts["seq_len"] == batch.tokens.shape[1]


def test_the_last_token_is_right_once_a_row_or_more() -> None:
    data = build_data("selective_copying/tiny")  # 3 answers of 8 tokens
    scores = data.trivial_scores()
    assert scores["last value"]["accuracy"] == pytest.approx((1 + 2 / 8) / 3, abs=0.03)
    assert scores["majority"]["accuracy"] == pytest.approx(1 / 8, abs=0.03)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((8, 9, 16), "num_copied <= seq_len must hold, got 9 and 8"),
        ((8, 2, 3), "vocab_size >= 4 must hold .* got 3"),
    ],
)
def test_what_does_not_fit_is_refused(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(*sizes)
