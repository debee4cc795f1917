"""MAD's tasks: the rows against solvers of other code, the score against its definition."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from tasks.data import TEST_SEED
from tasks.diagnostics.mad.data import MadData
from tasks.diagnostics.mad.generate import Settings, generate
from tasks.rules.answers import IGNORED
from tests.tasks.building import build_data, build_model, quiet_trainer, settings

PAPER = {
    "in_context_recall": Settings("in_context_recall"),
    "noisy_recall": Settings("noisy_recall", 32, 128, 16, 0.2),
    "fuzzy_recall": Settings("fuzzy_recall"),
    "selective_copying": Settings("selective_copying", 16, 256),
    "compression": Settings("compression", 16, 32),
    "memorization": Settings("memorization", 256, 32),
}
DIGESTS = {
    "in_context_recall": "c83efb43c0e69e47",
    "noisy_recall": "3c5e8c8f2727ee76",
    "fuzzy_recall": "4ca5b1b28cb9ed71",
    "selective_copying": "6cdc1e95f986ce0e",
    "compression": "041557671d6aa0d9",
    "memorization": "d0d5abcf09a9bb51",
}


def recall(tokens: list[int], num_keys: int, known: int) -> list[int]:
    """What a dictionary answers at each position of pairs, some of which are noise."""
    facts: dict[int, int] = {}
    answers = [IGNORED] * len(tokens)
    for i in range(0, len(tokens), 2):
        if tokens[i] >= known:
            continue
        assert tokens[i] < num_keys
        answers[i] = facts.get(tokens[i], IGNORED)
        if i + 1 < len(tokens):
            assert num_keys <= tokens[i + 1] < known
            assert facts.setdefault(tokens[i], tokens[i + 1]) == tokens[i + 1]
    return answers


def fuzzy(tokens: list[int], num_keys: int, padding: int) -> list[int]:
    """The same for keys of three tokens and values of one to three."""
    answers, facts, i = [IGNORED] * len(tokens), {}, 0
    while i < len(tokens) and tokens[i] == padding:
        i += 1
    while i < len(tokens):
        key = tuple(tokens[i : i + 3])
        assert max(key) < num_keys
        assert len(set(key)) == 3
        i += 3
        value = []
        while i + len(value) < len(tokens) and tokens[i + len(value)] >= num_keys:
            value.append(tokens[i + len(value)])
        known = facts.setdefault(key, value)
        at_end = i + len(value) == len(tokens)
        assert known[: len(value)] == value
        assert at_end or known == value
        if known is not value:
            for place, token in enumerate(known):
                answers[i - 1 + place] = token
        i += len(value)
    return answers


@pytest.mark.parametrize("kind", ["in_context_recall", "noisy_recall", "fuzzy_recall"])
def test_a_dictionary_answers_what_recall_asks_and_no_more(kind: str) -> None:
    paper = PAPER[kind]
    known = paper.vocab_size - paper.num_noise
    made = generate(3, 300, paper, training=False)
    for tokens, targets in zip(made.tokens.tolist(), made.targets.tolist(), strict=True):
        if kind == "fuzzy_recall":
            solved = fuzzy(tokens, 7, 15)
        else:
            solved = recall(tokens, known // 2, known)
        assert solved == targets
        assert targets[-1] != IGNORED  # the probe is always known


@pytest.mark.parametrize("kind", ["in_context_recall", "noisy_recall", "fuzzy_recall"])
def test_training_asks_for_every_next_token(kind: str) -> None:
    made = generate(3, 20, PAPER[kind])
    assert (made.tokens[:, 1:] == made.targets[:, :-1]).all()
    assert (made.targets != IGNORED).all()
    assert made.tokens.shape[1] == (128 if kind == "fuzzy_recall" else 127)


def test_noise_is_a_fifth_of_the_pairs() -> None:
    made = generate(0, 2000, PAPER["noisy_recall"])
    share = (made.tokens[:, :-1:2] >= 16).mean()  # of 63 pairs, of which about one is never noise
    assert share == pytest.approx(0.2 * 62 / 63, abs=0.005)


def test_copying_asks_for_the_tokens_in_order_and_no_blank_is_behind_the_last() -> None:
    made = generate(0, 200, PAPER["selective_copying"])
    for tokens, targets in zip(made.tokens.tolist(), made.targets.tolist(), strict=True):
        shown = [token for token in tokens[:239] if token < 14]
        assert tokens[238] < 14
        assert tokens[239:] == [15] + [14] * 16
        assert targets == [IGNORED] * 240 + shown


def test_compression_asks_for_its_input() -> None:
    made = generate(0, 50, PAPER["compression"])
    assert (made.tokens == made.targets).all()
    assert (made.tokens[:, -1] == 15).all()
    assert made.tokens[:, :-1].max() == 14


def test_facts_are_the_same_in_all_rows_and_for_every_seed() -> None:
    facts: dict[int, int] = {}
    for seed in (0, 1):
        made = generate(seed, 256, PAPER["memorization"])
        assert (made.tokens[:, 1::2] == 255).all()
        for key, value in zip(
            made.tokens[:, ::2].ravel().tolist(),
            made.targets[:, 1::2].ravel().tolist(),
            strict=True,
        ):
            assert facts.setdefault(key, value) == value
    assert set(facts) == set(range(127))
    assert len(set(facts.values())) == 127
    assert set(facts.values()) <= set(range(127, 255))


@pytest.mark.parametrize("kind", PAPER)
def test_rows_are_the_same_on_every_machine_and_others_for_another_seed(kind: str) -> None:
    made, other = (generate(seed, 4, PAPER[kind]) for seed in (7, 8))
    told = hashlib.sha256(b"".join(np.ascontiguousarray(p, "<i4").tobytes() for p in made))
    assert told.hexdigest()[:16] == DIGESTS[kind]
    assert (made.tokens != other.tokens).any()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"kind": "recall"}, "kind must be one of"),
        ({"kind": "in_context_recall", "vocab_size": 3}, r"vocab_size >= 4 must hold .* got 3"),
        ({"kind": "noisy_recall", "num_noise": 16}, r"vocab_size >= 20 must hold .* got 16"),
        ({"kind": "noisy_recall", "noise_share": 0.2}, "num_noise positive with it, got 0.2 and 0"),
        ({"kind": "compression", "num_noise": 2}, "num_noise and noise_share must be 0 in"),
        ({"kind": "fuzzy_recall", "seq_len": 18}, r"seq_len >= 19 must hold .* got 18"),
        ({"kind": "selective_copying", "seq_len": 33}, r"seq_len >= 34 must hold .* got 33"),
        ({"kind": "memorization", "seq_len": 31}, "seq_len must be even in memorization, got 31"),
    ],
)
def test_what_does_not_fit_is_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**sizes)


def test_a_change_takes_the_place_of_one_setting() -> None:
    given = settings("mad/tiny")["data"]
    del given["_target_"]
    data = build_data("mad/tiny", change={"vocab_size": 32, "num_train": 50}, num_train=100)
    assert data.dataset == "MAD-in_context_recall-num_train=50-vocab_size=32"
    assert (len(data.train), data.facts["vocab_size"]) == (50, 32)
    with pytest.raises(ValueError, match=r"change must be of vocab_size, .* got vocab"):
        MadData(**{**given, "change": {"vocab": 32}})


def test_what_is_read_are_the_answers_in_their_order() -> None:
    data = build_data("mad/tiny", num_eval=50)
    batch = data.test[torch.arange(50)]
    made = generate(TEST_SEED, 50, data.settings, training=False)
    for positions, answers, targets in zip(
        batch.positions, batch.answers, made.targets, strict=True
    ):
        asked = answers != IGNORED
        assert positions[asked].tolist() == np.flatnonzero(targets != IGNORED).tolist()
        assert answers[asked].tolist() == targets[targets != IGNORED].tolist()


def test_compression_reads_the_last_position_alone() -> None:
    data = build_data("mad/compression", num_train=8, num_eval=8)
    model = build_model("mad/compression", data, "none", "causal_self").eval()
    batch = data.test[torch.arange(4)]
    other = batch.tokens.clone()
    other[:, :-1] = 0  # nothing moves without mixing
    logits = model.network(batch.tokens, batch.positions)
    torch.testing.assert_close(model.network(other, batch.positions), logits)
    assert not torch.equal(logits[:, 0], logits[:, 1])  # but places differ


def test_both_accuracies_are_what_they_are_called() -> None:
    data = build_data("mad/tiny", num_eval=40)
    model = build_model("mad/tiny", data, "none", "causal_self")
    tested = quiet_trainer().test(model, data, verbose=False)[0]
    batch = data.test.every()
    with torch.no_grad():
        predicted = model.eval().predicted(batch)
    asked = batch.answers != IGNORED
    right = (predicted == batch.answers) & asked
    rows = (right.sum(dim=1) / asked.sum(dim=1)).mean()
    tokens = [right[batch.answers == t].double().mean() for t in batch.answers[asked].unique()]
    wrongly = set(predicted[asked].tolist()) - set(batch.answers[asked].tolist())
    assert tested["accuracy"] == pytest.approx(float(rows), abs=1e-6)
    macro = sum(tokens) / (len(tokens) + len(wrongly))  # torchmetrics counts those as 0
    assert tested["macro_accuracy"] == pytest.approx(float(macro), abs=1e-6)


def test_rules_have_both_scores_and_the_majority_is_right_on_one_token_alone() -> None:
    data = build_data("mad/tiny")
    data.setup()
    scores = data.trivial_scores()
    assert scores.keys() == {"majority", "last value", "usual value"}
    asked = data.test.every().answers
    tokens = asked[asked != IGNORED].unique()
    # Its recall is 1 for the token that it names, and 0 for every other.
    assert scores["majority"]["macro_accuracy"] == pytest.approx(1 / len(tokens))
    assert all(of.keys() == {"accuracy", "macro_accuracy"} for of in scores.values())
    assert scores["usual value"]["macro_accuracy"] > 2 / len(tokens)
