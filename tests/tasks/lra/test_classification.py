"""LRA's training: its schedules, and the pretraining on the same inputs within the one run."""

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.registry import factory, load
from runners.records import Record, RecordStore, Status
from tasks.base import AttentionSlots
from tasks.lra.batch import Batch
from tasks.lra.classification import Classification, Schedule, rate
from tests.runners.test_train import attnbench
from tests.tasks.building import build_data, build_model, quiet_trainer
from tests.tasks.lra.fake import FakeData

HERE = Path(__file__).parent
MODEL = {"embed_dim": 8, "mlp_dim": 8, "num_layers": 1, "num_heads": 1}
TRAINING = {"lr": 0.01, "schedule": "cosine", "warmup_steps": 2, "max_steps": 18}


def build(num_documents: int = 1, **changes: Any) -> tuple[Classification, FakeData]:
    torch.manual_seed(0)
    data = FakeData(num_documents=num_documents, batch_size=8)
    data.setup()
    slots = AttentionSlots(factory(load("softmax")), Pattern.NONCAUSAL_SELF)
    return Classification(slots, **{**TRAINING, **MODEL, **changes}, **data.facts), data


def repository(step: int, base: float, warmup: int, kind: str, cycle: int) -> float:
    """`create_learning_rate_scheduler` of LRA's code, written out."""
    ret = base * min(1.0, step / warmup)
    if kind == "rsqrt":
        return ret / math.sqrt(max(step, warmup))
    progress = max(0.0, (step - warmup) / cycle)
    return ret * max(0.0, 0.5 * (1.0 + math.cos(math.pi * (progress % 1.0))))


@pytest.mark.parametrize(("schedule", "base"), [("rsqrt", 0.05), ("cosine", 1e-3)])
def test_schedules_are_those_of_the_repository(schedule: Schedule, base: float) -> None:
    model, _ = build(schedule=schedule, lr=base, warmup_steps=8000, max_steps=20_000)
    [optimizer], [scheduled] = model.configure_optimizers()
    factor = scheduled["scheduler"].lr_lambdas[0]
    peak = optimizer.param_groups[0]["initial_lr"]
    for step in (0, 1, 4000, 7999, 8000, 8001, 19_999):
        expected = repository(step, base, 8000, schedule, 20_000)
        assert peak * factor(step) == pytest.approx(expected, rel=1e-12)
    if schedule == "rsqrt":
        assert peak == pytest.approx(5.59e-4, rel=1e-3)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.98)
    assert optimizer.param_groups[0]["eps"] == 1e-9


class Steps(Callback):
    """Notes of each update: the rate, the first beta, and the updates that the optimizer knows."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, int]] = []

    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        group = optimizer.param_groups[0]
        known = [int(state["step"]) for state in optimizer.state.values()]
        self.seen.append((group["lr"], group["betas"][0], max(known, default=0)))


def test_one_cycle_is_that_of_torch_with_its_betas() -> None:
    model, data = build(schedule="one_cycle", lr=0.2, warmup_steps=4, max_steps=10)
    steps = Steps()
    quiet_trainer(max_steps=10, max_epochs=-1, callbacks=[steps]).fit(model, datamodule=data)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.2, betas=(0.9, 0.98))
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.2, total_steps=10, pct_start=0.4, anneal_strategy="linear"
    )
    expected = []
    for step in range(10):
        group = optimizer.param_groups[0]
        expected.append((group["lr"], group["betas"][0]))
        optimizer.step()
        if step < 9:
            cycle.step()
    for (lr, beta, _), other in zip(steps.seen, expected, strict=True):
        assert (lr, beta) == pytest.approx(other, rel=1e-9)


def test_the_fine_tuning_begins_with_a_fresh_schedule_and_optimizer() -> None:
    model, data = build(pretrain_steps=7)
    steps = Steps()
    quiet_trainer(max_steps=18, max_epochs=-1, callbacks=[steps]).fit(model, datamodule=data)
    lrs = [lr for lr, _, _ in steps.seen]
    parts = [rate("cosine", step, 2, 7) for step in range(7)]
    parts += [rate("cosine", step, 2, 11) for step in range(11)]
    assert lrs == pytest.approx([0.01 * part for part in parts])
    # Zeroed before each update: how many the moments have seen.
    assert [known for _, _, known in steps.seen] == [*range(7), *range(11)]


def at(model: Classification, step: int) -> None:
    """Let the model think that this many updates were made."""
    model.trainer = cast(Any, type("At", (), {"global_step": step})())


@pytest.mark.parametrize("num_documents", [1, 2])
def test_each_part_trains_the_encoder_and_a_head_of_its_own(num_documents: int) -> None:
    model, data = build(num_documents, pretrain_steps=2, mask_ratio=0.4)
    batch = data.train[torch.arange(8)]
    every = {name for name, _ in model.classify.named_parameters()}
    for_masks = {"unembed.weight", "unembed.bias", "mask"}
    head = {name for name in every if name.startswith("head")}
    for step, idle in ((0, head), (1, head), (2, for_masks), (17, for_masks)):
        at(model, step)
        model.zero_grad()
        mean, count = model.loss(batch)
        mean.backward()
        trained = {n for n, p in model.classify.named_parameters() if p.grad is not None}
        assert trained == every - idle
        if step < 2:  # of 72 tokens of a document that are no padding; sd 4.2, or 5.9 of two
            assert abs(int(count) - 0.4 * 72 * num_documents) < 24
        else:
            assert count == 8


def test_the_loss_behind_masks_is_that_of_the_masked_tokens() -> None:
    model, data = build(pretrain_steps=2)
    batch = data.train[torch.arange(8)]
    masked = torch.zeros_like(batch.is_padding)
    masked[0, 1] = masked[5, 3] = True
    model._masks = cast(Any, lambda _: masked)
    at(model, 0)
    model.classify.unmask = cast(Any, lambda *_: torch.tensor([[0.0, 1, 2, 3], [5, 0, 0, 0]]))
    mean, count = model.loss(batch)
    first, second = batch.tokens[0, 1], batch.tokens[5, 3]
    logits = torch.tensor([[0.0, 1, 2, 3], [5, 0, 0, 0]]).log_softmax(-1)
    assert count == 2
    assert mean.item() == pytest.approx(-(logits[0, first] + logits[1, second]).item() / 2)
    model._masks = cast(Any, lambda _: torch.zeros_like(masked))
    model.classify.unmask = cast(Any, lambda *_: torch.zeros(0, 4))
    assert model.loss(batch)[0] == 0.0  # no token is masked: nothing to learn, and no NaN


def train(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> Record:
    """Train by the command; the newest record."""
    settings = ["--config-dir", str(HERE / "conf"), "task=fake/tiny", "pattern=noncausal_self"]
    place = ["device=cpu", f"run.results={folder}"]
    attnbench(monkeypatch, "train", *settings, *place, *overrides)
    paths = sorted((folder / "train" / "runs").glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
    record = RecordStore(folder / "train").read(paths[-1].stem)
    assert record is not None
    return record


def quality(record: Record) -> list[Any]:
    names = {"accuracy", "train_accuracy", "masked_accuracy", "steps", "tested_step"}
    rows = [m for m in record.measurements if m.metric in names]
    return [record.status, *((m.metric, m.split, m.step, m.value, m.comment) for m in rows)]


@pytest.mark.parametrize("stopped_at", [6, 13])  # in the second epoch, which pretrains, and after
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    stopped_at: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("runners.train.add_step_times", lambda *_: None)
    whole = train(monkeypatch, tmp_path / "whole")
    loss, calls = Classification.loss, 0

    def failing(self: Classification, batch: Batch) -> Any:
        nonlocal calls
        calls += 1
        if calls == stopped_at + 1:
            raise RuntimeError("killed")
        return loss(self, batch)

    monkeypatch.setattr(Classification, "loss", failing)
    assert train(monkeypatch, tmp_path / "broken").status is Status.FAILED
    resumed = train(monkeypatch, tmp_path / "broken")
    assert quality(resumed) == quality(whole)  # bit for bit
    assert calls == stopped_at + 1 + 18 - stopped_at // 5 * 5


def test_only_fine_tuned_weights_are_validated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("runners.train.add_step_times", lambda *_: None)
    monkeypatch.setattr(  # the earlier the better: a weight of the pretraining would be selected
        Classification,
        "test_step",
        lambda self, *_: self.log("accuracy", torch.tensor(1 / (1 + self.trainer.global_step))),
    )
    record = train(monkeypatch, tmp_path)
    assert record.status is Status.OK
    curve = [m.step for m in record.measurements if m.split == "validation" and m.step]
    assert curve == [9, 12, 15, 18]
    value = {m.metric: m for m in record.measurements if m.step is None}
    assert value["tested_step"].value == 9
    assert value["masked_accuracy"].split == "validation"
    assert 0 < (value["masked_accuracy"].value or 0) < 1


def test_accuracy_counts_rows_and_the_training_accuracy_those_since_the_last_validation() -> None:
    model, data = build(max_steps=4)
    data.eval_batch_size = 8  # 30 rows: the last batch is shorter

    class Counting(nn.Module):
        """Right, but in evaluation not where a row begins with a three."""

        free = nn.Parameter(torch.zeros(1))

        def forward(self, tokens: Tensor, is_padding: Tensor) -> Tensor:
            right = ((tokens == 1).sum(dim=1) > (tokens == 2).sum(dim=1)).long()
            wrong = (tokens[:, 0] == 3) & (not self.training)
            return F.one_hot(torch.where(wrong, 1 - right, right), 2).float() + 0 * self.free

    model.classify = cast(Any, Counting())
    trainer = quiet_trainer(max_epochs=1, val_check_interval=2)
    trainer.fit(model, datamodule=data)
    tested = trainer.test(model, data, verbose=False)[0]
    expected = (data.test.tokens[:, 0] != 3).double().mean().item()
    assert tested["accuracy"] == pytest.approx(expected)
    assert model.train_counts.tolist() == [16, 16]  # of steps 3 and 4; the fifth is not validated
    (row,) = model.measure()
    assert (row["metric"], row["split"], row["value"]) == ("train_accuracy", "train", 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "linear"}, "schedule must be one of .*, got 'linear'"),
        ({"pretrain_steps": 18}, "below max_steps, which counts them: got 18 of 18"),
        ({"mask_ratio": 1.0}, r"mask_ratio must be in \(0, 1\), got 1.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.slow
def test_listops_in_small_is_learnt_above_its_first_token(tmp_path: Path) -> None:
    accuracy = {}
    for name in ("softmax", "none"):
        data = build_data("listops/tiny", cache_dir=str(tmp_path))
        model = build_model("listops/tiny", data, name, Pattern.NONCAUSAL_SELF)
        trainer = quiet_trainer(max_steps=model.max_steps, max_epochs=-1)
        trainer.fit(model, datamodule=data)
        accuracy[name] = trainer.test(model, data, verbose=False)[0]["accuracy"]
    rules = data.trivial_scores()
    # 1,000 rows: a standard deviation of at most 0.016
    assert accuracy["none"] < rules["majority"]["accuracy"] + 0.05
    assert accuracy["softmax"] > rules["first token"]["accuracy"] + 0.15
