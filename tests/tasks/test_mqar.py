"""MQAR: the rows against their definition, the task against what is known of its difficulty."""

from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from tasks.diagnostics.answers import IGNORED, Batch
from tasks.diagnostics.mqar import Examples, Mqar, MqarData
from tests.tasks.building import build_data, build_model, quiet_trainer

SIZES = {"seq_len": 64, "num_pairs": [4], "vocab_size": 256, "power": 0.01, "filler": False}


def examples(num_rows: int = 500, seed: int = 0, **changes: Any) -> Examples:
    return Examples(num_rows, **{**SIZES, **changes}, seed=seed)


def every(rows: Examples) -> Batch:
    return rows[torch.arange(len(rows))]


def solve(row: list[int], num_pairs: int) -> dict[int, int]:
    """The answer at each position that a dictionary can answer."""
    known = {row[2 * j]: row[2 * j + 1] for j in range(num_pairs)}
    return {
        position: known[token]
        for position, token in enumerate(row)
        if position >= 2 * num_pairs and token in known
    }


@pytest.mark.parametrize("num_pairs", [1, 4, 16])  # 16: every slot is taken
def test_a_dictionary_answers_every_query_and_there_is_no_other(num_pairs: int) -> None:
    batch = every(examples(num_pairs=[num_pairs]))
    for tokens, positions, answers in zip(*(part.tolist() for part in batch[:3]), strict=True):
        asked = dict(zip(positions, answers, strict=True))
        assert len(asked) == num_pairs
        assert solve(tokens, num_pairs) == asked


def test_keys_and_values_are_distinct_in_their_halves_and_no_value_is_shown_again() -> None:
    batch = every(examples())
    keys, values = batch.tokens[:, 0:8:2], batch.tokens[:, 1:8:2]
    for drawn, low, high in ((keys, 1, 127), (values, 128, 255)):
        assert (drawn.sort().values.diff() > 0).all()
        assert (drawn.min(), drawn.max()) == (low, high)  # 2,000 draws of 128 reach both ends
    assert (batch.tokens[:, 8:] < 128).all()
    assert (batch.positions % 2 == 0).all()


def test_filler_changes_the_blanks_alone() -> None:
    blank, filled = every(examples()), every(examples(filler=True))
    shown = blank.tokens != 0
    assert (filled.tokens[shown] == blank.tokens[shown]).all()
    assert torch.equal(filled.answers, blank.answers)
    noise = filled.tokens[~shown]
    # Uniform over 256 tokens: 26,000 draws average 127.5 with a deviation of 0.46.
    assert abs(noise.double().mean() - 127.5) < 2
    assert (noise.min(), noise.max()) == (0, 255)


@pytest.mark.parametrize(("length", "pairs", "first"), [(64, 4, 0.25), (256, 16, 0.185)])
def test_the_first_key_takes_the_slots_by_the_power_law(
    length: int, pairs: int, first: float
) -> None:
    batch = every(examples(20_000, seq_len=length, num_pairs=[pairs]))
    slots = (batch.positions[:, 0] - 2 * pairs) // 2
    share = torch.bincount(slots, minlength=(length - 2 * pairs) // 2) / len(slots)
    law = [i ** (0.01 - 1) for i in range(1, len(share) + 1)]
    # 20,000 draws: a standard deviation of at most 0.003
    torch.testing.assert_close(share, torch.tensor(law) / sum(law), rtol=0, atol=0.015)
    assert float(share[0]) == pytest.approx(first, abs=0.015)


def test_the_second_key_draws_from_the_slots_that_are_left() -> None:
    """With three slots and two pairs every order can be counted."""
    batch = every(examples(30_000, seq_len=10, num_pairs=[2], power=0.5))
    slots = (batch.positions - 4) // 2
    share = torch.bincount(slots[:, 0] * 3 + slots[:, 1], minlength=9) / len(slots)
    weights = [i**-0.5 for i in (1, 2, 3)]
    total = sum(weights)
    expected = [
        0.0 if i == j else weights[i] / total * weights[j] / (total - weights[i])
        for i in range(3)
        for j in range(3)
    ]
    torch.testing.assert_close(share, torch.tensor(expected), rtol=0, atol=0.015)


def test_a_mixture_shares_the_rows_and_marks_the_missing_queries() -> None:
    batch = every(examples(300, num_pairs=[2, 8, 4]))
    counts = (batch.answers != IGNORED).sum(dim=1)
    assert counts.tolist() == [2, 8, 4] * 100
    for tokens, answers, pairs in zip(batch.tokens, batch.answers, counts, strict=True):
        solved = solve(tokens.tolist(), int(pairs))
        assert sorted(solved.values()) == sorted(answers[:pairs].tolist())


def test_a_seed_fixes_every_token_and_another_changes_them() -> None:
    first, again, other = (every(examples(seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3], strict=True))
    assert not torch.equal(first.tokens, other.tokens)


def test_the_seed_moves_the_training_rows_only() -> None:
    one, two = (data(seed=seed) for seed in (0, 1))
    assert not torch.equal(one.train.rows.tokens, two.train.rows.tokens)
    assert torch.equal(one.validation.rows.tokens, two.validation.rows.tokens)
    assert torch.equal(one.test.rows.tokens, two.test.rows.tokens)
    assert not torch.equal(one.test.rows.tokens, one.validation.rows.tokens)


def test_the_data_set_is_named_after_its_length_and_pairs() -> None:
    assert data().dataset == "MQAR-L16-N4"
    assert data(num_pairs=[2, 4]).dataset == "MQAR-L16-N2+4"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_pairs": [17]}, r"num_pairs must be between 1 and 16 .* got \[17\]"),
        ({"num_pairs": []}, "num_pairs must be between"),
        ({"vocab_size": 8}, "num_pairs must be between 1 and 3"),
        ({"seq_len": 63}, "must be even, got 63, 256"),
        ({"power": 0.0}, "power must be positive, got 0.0"),
        ({"num_pairs": [4, 2, 4]}, r"num_pairs must differ, got \[4, 2, 4\]"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        examples(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train": 0}, "num_train must be positive, got 0"),
        ({"num_eval": 0}, "num_eval must be positive, got 0"),
        ({"num_eval": 2.5}, "num_eval must be a whole number, got 2.5"),
        ({"eval_batch_size": 0}, "eval_batch_size must be positive, got 0"),
        ({"num_pairs": [1, 2, 4], "num_eval": 2}, "num_eval must be at least 3, .* got 2"),
        ({"num_pairs": 9}, "num_pairs must be between 1 and 8 .* got"),
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


def task(name: str, rows: MqarData, **changes: Any) -> Mqar:
    return build_model("mqar/tiny", rows, name, "causal_self", **changes)


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
    rows = data(num_pairs=[2, 4], num_eval=11)  # 6 rows of 2 pairs and 5 of 4, in batches of 4
    model = task("none", rows)
    model.network = cast(Any, Dictionary())
    rows.eval_batch_size = 4
    tested = quiet_trainer().test(model, rows, verbose=False)[0]
    assert tested["accuracy"] == pytest.approx((6 + 5 * 0.75) / 11)
    measured = {m["metric"]: m["value"] for m in model.measure()}
    assert measured == {"accuracy_2_pairs": 1.0, "accuracy_4_pairs": 0.75}


def test_logits_are_those_of_the_whole_sequence_at_the_read_positions() -> None:
    rows = data()
    model = task("softmax", rows)
    batch = rows.test[torch.arange(3)]
    everywhere = torch.arange(16).expand(3, -1)
    logits = model.network(batch.tokens, everywhere)
    for b in range(3):
        expected = logits[b, batch.positions[b]]
        torch.testing.assert_close(model.network(*batch[:2])[b], expected)


def test_a_solved_run_stops() -> None:
    rows = data(num_train=128, num_eval=20)
    model = task("none", rows, stop_accuracy=-1.0)  # any accuracy exceeds it
    trainer = quiet_trainer(max_epochs=5)
    trainer.fit(model, datamodule=rows)
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
    rows = data(num_train=320)
    rates = Rates()
    quiet_trainer(max_epochs=1, callbacks=[rates]).fit(
        task("none", rows, cooldown=cooldown, lr=1.0), datamodule=rows
    )
    assert rates.seen == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("softmax", 0.99, 1.0),
        ("linear_elu", 0.2, 0.6),  # it knows which values there are, one in four; 0.35 to 0.37
        ("none", 0.0, 1 / 32 + 0.03),  # chance among the values; 4,000 queries: sd 0.003
    ],
)
def test_tiny_tells_mechanisms_apart(name: str, low: float, high: float) -> None:
    rows = data()
    model = task(name, rows)
    fit = quiet_trainer(max_epochs=3)
    fit.fit(model, datamodule=rows)
    assert low <= fit.test(model, rows, verbose=False)[0]["accuracy"] <= high
