"""MQAR: the rows against their definition, the task against what is known of its difficulty."""

import hashlib
import itertools
from collections import Counter
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from tasks.diagnostics.mqar.data import MqarData
from tasks.diagnostics.mqar.generate import Rows, Settings, generate
from tasks.diagnostics.mqar.task import Mqar
from tests.tasks.building import build_data, build_model, quiet_trainer


def rows(count: int = 500, seed: int = 0, **changes: Any) -> Rows:
    return generate(seed, count, Settings(**{"vocab_size": 256, **changes}))


def solve(row: list[int], num_pairs: int, begin: int | None = None) -> dict[int, int]:
    """The answer at each position from `begin` on that a dictionary can answer."""
    known = {row[2 * j]: row[2 * j + 1] for j in range(num_pairs)}
    begin = 2 * num_pairs if begin is None else begin
    return {i: known[token] for i, token in enumerate(row) if i >= begin and token in known}


@pytest.mark.parametrize(
    ("pairs", "changes"),
    [
        (1, {}),
        (4, {"num_passes": 3}),
        (15, {"separator": True}),
        (16, {}),  # every slot is taken, and keys come from shuffled pools
    ],
)
def test_a_dictionary_answers_every_query_and_there_is_no_other(
    pairs: int, changes: dict[str, Any]
) -> None:
    made = rows(num_pairs=pairs, **changes)
    begin = Settings(num_pairs=pairs, vocab_size=256, **changes).context_len
    for tokens, positions, answers in zip(*(part.tolist() for part in made), strict=True):
        asked = dict(zip(positions, answers, strict=True))
        assert len(asked) == pairs
        assert solve(tokens, pairs, begin) == asked
        assert (tokens[begin] == 256) == changes.get("separator", False)


def test_keys_and_values_are_distinct_in_their_halves_and_no_value_is_shown_again() -> None:
    made = rows()
    keys, values = made.tokens[:, 0:8:2], made.tokens[:, 1:8:2]
    for drawn, low, high in ((keys, 1, 127), (values, 128, 255)):
        assert (np.diff(np.sort(drawn)) > 0).all()
        assert (drawn.min(), drawn.max()) == (low, high)  # 2,000 draws of 128 reach both ends
    assert (made.tokens[:, 8:] < 128).all()
    assert (made.positions % 2 == 0).all()


@pytest.mark.parametrize("pairs", [8, 16])  # rows drawn again; pools shuffled
def test_every_key_is_as_likely_at_every_place(pairs: int) -> None:
    keys = rows(8000, num_pairs=pairs, vocab_size=64).tokens[:, : 2 * pairs : 2]
    for place in range(0, pairs, 5):
        counts = np.bincount(keys[:, place], minlength=32)[1:]
        chi2 = ((counts - 8000 / 31) ** 2).sum() / (8000 / 31)
        assert chi2 < 60  # 30 degrees of freedom: 1 in 1,000


def test_filler_changes_the_blanks_alone() -> None:
    blank, filled = rows(), rows(filler=True)
    shown = blank.tokens != 0
    assert (filled.tokens[shown] == blank.tokens[shown]).all()
    assert (filled.answers == blank.answers).all()
    noise = filled.tokens[~shown]
    # Uniform over 256 tokens: 26,000 draws average 127.5 with a deviation of 0.46.
    assert abs(noise.mean() - 127.5) < 2
    assert (noise.min(), noise.max()) == (0, 255)


@pytest.mark.parametrize(("length", "pairs", "first"), [(64, 4, 0.25), (256, 16, 0.185)])
def test_the_first_key_takes_the_slots_by_the_power_law(
    length: int, pairs: int, first: float
) -> None:
    made = rows(20_000, seq_len=length, num_pairs=pairs)
    slots = (made.positions[:, 0] - 2 * pairs) // 2
    share = np.bincount(slots, minlength=(length - 2 * pairs) // 2) / len(slots)
    law = np.arange(1, len(share) + 1) ** (0.01 - 1)
    # 20,000 draws: a standard deviation of at most 0.003
    np.testing.assert_allclose(share, law / law.sum(), rtol=0, atol=0.015)
    assert share[0] == pytest.approx(first, abs=0.015)


def test_the_second_key_draws_from_the_slots_that_are_left() -> None:
    """With three slots and two pairs every order can be counted."""
    made = rows(30_000, seq_len=10, num_pairs=2, power=0.5)
    slots = (made.positions - 4) // 2
    share = np.bincount(slots[:, 0] * 3 + slots[:, 1], minlength=9) / len(slots)
    weights = [i**-0.5 for i in (1, 2, 3)]
    total = sum(weights)
    expected = [
        0.0 if i == j else weights[i] / total * weights[j] / (total - weights[i])
        for i in range(3)
        for j in range(3)
    ]
    np.testing.assert_allclose(share, expected, rtol=0, atol=0.015)


def test_rows_are_the_same_on_every_machine() -> None:
    made = rows(5, seed=7, seq_len=128, num_pairs=16, filler=True)  # each of the three ways to draw
    told = hashlib.sha256(b"".join(part.astype("<i4").tobytes() for part in made)).hexdigest()
    assert told == "bf053c172b9dadf6475e48a4cc4924ed48257892b743e1e450432a4e6eeea4c2"


def test_a_seed_fixes_every_token_and_another_changes_them() -> None:
    first, again, other = (rows(seed=seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first.tokens != other.tokens).any()


def test_a_mixture_shares_the_rows_and_a_batch_has_one_size() -> None:
    mixed = data(seq_len=[16, 32, 32], num_pairs=[4, 4, 2], num_train=100, batch_size=8)
    batches = list(mixed.train_dataloader())
    sizes = [(batch.tokens.shape[1], batch.answers.shape[1]) for batch in batches]
    assert Counter(sizes) == {(16, 4): 4, (32, 4): 4, (32, 2): 4}
    assert sizes != sorted(sizes)
    assert sizes != sorted(sizes, reverse=True)
    for batch in batches:
        for tokens, positions, answers in zip(*(p.tolist() for p in batch[:3]), strict=True):
            assert solve(tokens, len(answers)) == dict(zip(positions, answers, strict=True))


def test_a_curriculum_shows_one_size_after_another() -> None:
    staged = data(num_pairs=[1, 2, 4], num_train=96, batch_size=32, curriculum_epochs=2)
    loader = staged.train_dataloader()
    seen = []
    for epoch in range(7):
        cast(Any, loader.sampler).set_epoch(epoch)
        seen.append([batch.answers.shape[1] for batch in loader])
    assert seen == [[1], [1], [2], [2], [4], [4], [4]]


def test_fresh_rows_are_others_in_each_epoch_and_the_same_again() -> None:
    passes = []
    for epoch in (0, 1, 0):
        loader = data(num_train=64, fresh=True).train_dataloader()
        cast(Any, loader.sampler).set_epoch(epoch)
        passes.append(torch.cat([batch.tokens for batch in loader]))
    assert torch.equal(passes[0], passes[2])
    assert not (passes[0] == passes[1]).all(dim=1).any()
    assert len(passes[0].unique(dim=0)) == 64


def test_the_cross_patterns_ask_the_same_of_the_same_rows() -> None:
    whole, cut = (data(pattern=p).test[torch.arange(20)] for p in ("causal_self", "causal_cross"))
    assert torch.equal(torch.cat([cut.context, cut.tokens], dim=1), whole.tokens)
    assert torch.equal(cut.answers, whole.answers)
    keys = whole.tokens.gather(1, whole.positions)
    assert torch.equal(cut.tokens.gather(1, cut.positions), keys)


def test_trivial_rules_score_what_they_must() -> None:
    scores = data(num_eval=4000).trivial_scores()  # 4 pairs, 4 slots
    assert scores["last value"]["accuracy"] == 0.25  # right once a row
    assert scores["majority"]["accuracy"] == pytest.approx(1 / 32, abs=0.01)
    places = range(4)  # the share of pairs that stand in their order, by the law of the slots
    weights = [1, 2**-0.99, 3**-0.99, 4**-0.99]
    expected = 0.0
    for order in itertools.permutations(places):
        left, chance = sum(weights), 1.0
        for slot in order:
            chance *= weights[slot] / left
            left -= weights[slot]
        expected += chance * sum(pair == slot for pair, slot in enumerate(order)) / 4
    assert scores["in order"]["accuracy"] == pytest.approx(expected, abs=0.02)


def test_the_seed_moves_the_training_rows_only() -> None:
    one, two = (data(seed=seed) for seed in (0, 1))
    some = torch.arange(50)
    assert not torch.equal(one.train[some].tokens, two.train[some].tokens)
    assert torch.equal(one.validation[some].tokens, two.validation[some].tokens)
    assert torch.equal(one.test[some].tokens, two.test[some].tokens)
    assert not torch.equal(one.test[some].tokens, one.validation[some].tokens)


def test_the_data_set_is_named_after_its_length_and_pairs() -> None:
    assert data().dataset == "MQAR-L16-N4"
    assert data(num_pairs=[2, 4]).dataset == "MQAR-L16-N2+4"
    harder = data(num_pairs=2, power=1.0, filler=True, separator=True)
    assert harder.dataset == "MQAR-L16-N2-filler-separator-power1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_pairs": 17}, r"<= seq_len must hold, got 34 \+ 0 \+ 34 = 68 > 64"),
        ({"num_pairs": 16, "separator": True}, r"got 32 \+ 1 \+ 32 = 65 > 64"),
        ({"num_pairs": 8, "num_passes": 4}, r"got 64 \+ 0 \+ 16 = 80 > 64"),
        ({"num_pairs": 0}, "num_pairs and num_passes must be positive, got 0 and 1"),
        ({"vocab_size": 8}, r"num_pairs <= vocab_size / 2 - 1 must hold .* got 4 > 3"),
        ({"seq_len": 63}, "must be even, got 63 and 256"),
        ({"power": 0.0}, "power must be positive, got 0.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train": 0}, "num_train must be positive, got 0"),
        ({"num_eval": 0}, "num_eval must be positive, got 0"),
        ({"num_eval": 2.5}, "num_eval must be a whole number, got 2.5"),
        ({"eval_batch_size": 0}, "eval_batch_size must be positive, got 0"),
        ({"num_pairs": [1, 2, 4], "num_eval": 2}, "num_eval must be at least 3, .* got 2"),
        ({"num_pairs": [1, 2], "num_train": [8]}, r"num_train must be one, or .* got .8."),
        ({"num_pairs": 9}, r"<= seq_len must hold, got 18 \+ 0 \+ 18 = 36 > 32"),
        ({"test_seq_len": 8}, "<= seq_len must hold, got 8"),
        ({"num_pairs": [4, 2, 4]}, r"sizes must differ, got .* num_pairs \[4, 2, 4\]"),
        ({"seq_len": [32, 64]}, "seq_len must be one, or one for each of num_pairs, got"),
        ({"num_pairs": []}, "seq_len must be one, or one for each of num_pairs, got"),
    ],
)
def test_data_that_would_have_no_rows_are_refused_at_once(
    changes: dict[str, Any], message: str
) -> None:
    given = {"seq_len": 32, "num_pairs": 4, "num_train": 8, "num_eval": 8, "batch_size": 4}
    with pytest.raises(ValueError, match=message):
        MqarData(**{**given, **changes})


def test_another_source_is_refused() -> None:
    with pytest.raises(ValueError, match="source must be 'generated', got 'hub'"):
        MqarData(source="hub", seq_len=32, num_pairs=4, num_train=1, num_eval=1, batch_size=1)


def data(**changes: Any) -> MqarData:
    return build_data("mqar/tiny", **changes)


def task(name: str, given: MqarData, **changes: Any) -> Mqar:
    return build_model("mqar/tiny", given, name, given.pattern, **changes)


class Dictionary(torch.nn.Module):
    """In place of the decoder: right in the rows of two pairs, once wrong in the others."""

    def forward(self, tokens: Tensor, read: Tensor, context: None = None) -> Tensor:
        logits = torch.zeros(*read.shape, 64)
        for b, positions in enumerate(read.tolist()):
            pairs = sum(position > 0 for position in positions)
            answers = solve(tokens[b].tolist(), pairs)
            for p in range(pairs if pairs == 2 else pairs - 1):
                logits[b, p, answers[positions[p]]] = 1.0
        return logits


def test_the_accuracy_counts_queries_within_rows_then_rows() -> None:
    given = data(num_pairs=[2, 4], num_eval=11)  # 6 rows of 2 pairs and 5 of 4, in batches of 4
    model = task("none", given)
    model.network = cast(Any, Dictionary())
    given.eval_batch_size = 4
    tested = quiet_trainer().test(model, given, verbose=False)[0]
    assert tested["accuracy"] == pytest.approx((6 + 5 * 0.75) / 11)
    measured = {m["metric"]: m["value"] for m in model.measure()}
    assert measured == {"accuracy_2_pairs": 1.0, "accuracy_4_pairs": 0.75}


def test_logits_are_those_of_the_whole_sequence_at_the_read_positions() -> None:
    given = data()
    model = task("softmax", given)
    batch = given.test[torch.arange(3)]
    everywhere = torch.arange(16).expand(3, -1)
    logits = model.network(batch.tokens, everywhere)
    for b in range(3):
        expected = logits[b, batch.positions[b]]
        torch.testing.assert_close(model.network(*batch[:2])[b], expected)


def test_a_solved_run_stops() -> None:
    given = data(num_train=128, num_eval=20)
    model = task("none", given, stop_accuracy=-1.0)  # any accuracy exceeds it
    trainer = quiet_trainer(max_epochs=5)
    trainer.fit(model, datamodule=given)
    assert trainer.current_epoch == 1


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("cooldown", "expected"),
    [
        (0.4, [1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        (None, [1, 0.9755, 0.9045, 0.7939, 0.6545, 0.5, 0.3455, 0.2061, 0.0955, 0.0245]),
    ],
)
def test_the_learning_rate_falls_to_zero(cooldown: float | None, expected: list[float]) -> None:
    given = data(num_train=320)
    rates = Rates()
    quiet_trainer(max_epochs=1, callbacks=[rates]).fit(
        task("none", given, cooldown=cooldown, lr=1.0), datamodule=given
    )
    assert rates.seen == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pattern", "low", "high"),
    [
        ("softmax", "causal_self", 0.99, 1.0),
        ("softmax", "noncausal_cross", 0.99, 1.0),
        ("linear_elu", "causal_self", 0.2, 0.6),  # it knows which values there are; 0.35 to 0.37
        ("none", "causal_self", 0.0, 1 / 32 + 0.03),  # chance; 4,000 queries: sd 0.003
    ],
)
def test_tiny_tells_mechanisms_apart(name: str, pattern: str, low: float, high: float) -> None:
    given = data(pattern=pattern)
    model = task(name, given)
    fit = quiet_trainer(max_epochs=3)
    fit.fit(model, datamodule=given)
    assert low <= fit.test(model, given, verbose=False)[0]["accuracy"] <= high
