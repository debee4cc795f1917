"""Induction heads: the rows against their definition, the test at other lengths."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from tasks.diagnostics.induction import Settings, generate
from tests.tasks.building import build_data, build_model, quiet_trainer


def test_the_answer_is_what_followed_the_only_other_trigger() -> None:
    made = generate(0, 2000, Settings(12, 16))
    firsts = []
    for tokens, (answer,) in zip(made.tokens.tolist(), made.answers.tolist(), strict=True):
        first, last = (i for i, token in enumerate(tokens) if token == 15)
        assert last == 11
        assert tokens[first + 1] == answer
        firsts.append(first)
    assert np.bincount(firsts, minlength=10).min() > 120  # each of 10 places 200 times, sd 13


def test_rows_are_the_same_on_every_machine() -> None:
    made = generate(7, 3, Settings())
    told = hashlib.sha256(b"".join(part.astype("<i4").tobytes() for part in made)).hexdigest()
    assert told[:16] == "c6b4eed667bc2329"


@pytest.mark.parametrize("pattern", ["noncausal_self", "causal_cross"])
def test_each_length_is_tested_and_told_apart(pattern: str) -> None:
    data = build_data("induction/tiny", pattern, test_seq_lens=[8, 24], num_eval=40)
    model = build_model("induction/tiny", data, "softmax", pattern)
    seen: list[int] = []

    def predicted(batch: Any) -> torch.Tensor:
        body = batch.tokens if batch.context is None else batch.context
        seen.append(body.shape[1] + (batch.context is not None))
        return batch.answers if seen[-1] == 8 else torch.zeros_like(batch.answers) - 1

    model.predicted = predicted
    tested = quiet_trainer().test(model, data, verbose=False)[0]
    assert sorted(set(seen)) == [8, 24]
    assert tested["accuracy"] == 0.5
    told = {(m["metric"], m["seq_len"]): m["value"] for m in model.measure()}
    assert told == {("accuracy_by_length", 8): 1.0, ("accuracy_by_length", 24): 0.0}


def test_trivial_rules_are_near_chance() -> None:
    scores = build_data("induction/tiny", num_eval=3000).trivial_scores()
    chance = 1 / 15
    assert scores["majority"]["accuracy"] == pytest.approx(chance, abs=0.02)
    last = np.mean([1 / (n - 2) + (1 - 1 / (n - 2)) * chance for n in (16, 32, 64)])
    assert scores["last value"]["accuracy"] == pytest.approx(last, abs=0.02)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((2, 16), "seq_len >= 3 must hold .* got 2"), ((9, 2), "vocab_size >= 3 must hold .* got 2")],
)
def test_what_does_not_fit_is_refused(sizes: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(*sizes)
