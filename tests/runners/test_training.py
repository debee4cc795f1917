"""What ends a training run, and what it goes on from: toys of four steps an epoch."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.records import Record, RecordStore, Status
from tests.runners import toy
from tests.runners.test_train import train

SETTINGS = ("task.data.batch_size=80", "task.model.mishap=fail")
Train = Callable[..., Record]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Train:
    """Trains with some overrides into a folder of that name."""

    def trained(*overrides: str, into: str = "results") -> Record:
        return train(monkeypatch, tmp_path / into, *SETTINGS, *overrides)[1]

    monkeypatch.setitem(toy.MISHAPS, "fail", lambda: None)
    monkeypatch.setattr("runners.train.add_step_times", lambda *_: None)
    return trained


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> Iterator[int]:
    """Let the training step fail once, at this call; gives the calls so far."""
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise RuntimeError("stopped")

    monkeypatch.setitem(toy.MISHAPS, "fail", fail)
    while True:
        yield calls


def script(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Let the validations of an unbroken run give these scores, whatever the weights."""

    def validation_step(self: toy.Toy, batch: Tensor, batch_idx: int) -> None:
        score = scores[(self.trainer.global_step - 1) // 4]
        self.log("mse", torch.tensor(score), batch_size=len(batch))

    monkeypatch.setattr(toy.Toy, "validation_step", validation_step)


def quality(record: Record) -> list[Any]:
    """All that must not depend on where a run was killed."""
    names = ("mse", "steps", "tested_step")
    rows = [m for m in record.measurements if m.metric in names]
    return [record.status, *((m.metric, m.split, m.step, m.value, m.comment) for m in rows)]


def validated(record: Record) -> list[int | None]:
    """The steps of the learning curve."""
    return [m.step for m in record.measurements if m.split == "validation"]


def value(record: Record, metric: str) -> float | None:
    """Of the only row of this metric that is no curve."""
    (found,) = [m.value for m in record.measurements if m.metric == metric and m.step is None]
    return found


STEPS = "trainer.max_steps=10"
ENDS = {
    "epochs": ("trainer.max_epochs=3",),
    "steps": (STEPS, "task.trainer.max_epochs=-1"),
    "updates of three batches": (
        STEPS,
        "trainer.max_epochs=6",
        "trainer.accumulate_grad_batches=3",
    ),
}


@pytest.mark.parametrize("overrides", ENDS.values(), ids=ENDS)
def test_an_interrupted_run_ends_with_the_numbers_of_one_that_was_not(
    overrides: tuple[str, ...],
    run: Train,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = run(*overrides, into="whole")
    calls = stop_at(monkeypatch, call=10)  # in the third epoch
    next(calls)
    broken = run(*overrides, into="broken")
    assert broken.status is Status.FAILED
    assert validated(broken) == validated(whole)[:2]  # what was measured is recorded
    resumed = run(*overrides, into="broken")
    assert quality(resumed) == quality(whole)  # bit for bit, the curve too
    folder = tmp_path / "broken/train/checkpoints" / resumed.run_id
    assert not folder.exists()
    assert f"attnbench: goes on from epoch 2 of {folder / 'last.ckpt'} (written 2" in (
        capsys.readouterr().out
    )
    if "trainer.max_epochs=3" in overrides:
        assert next(calls) == 10 + 4  # the third epoch alone was run again


def test_the_best_weights_are_found_where_the_results_were_moved_to(
    run: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(monkeypatch, 1.0, 2.0, 3.0)
    whole = run(into="whole")
    assert value(whole, "tested_step") == 4
    next(stop_at(monkeypatch, call=10))
    run(into="there")
    shutil.copytree(tmp_path / "there", tmp_path / "here")
    for path in (tmp_path / "there").rglob("best-*.ckpt"):  # the old place is not to be looked at
        path.write_text("no weights")
    assert quality(run(into="here")) == quality(whole)


@pytest.mark.parametrize("scores", [(1.0, 2.0, 3.0, 4.0), (2.0, 1.0, 3.0, 4.0)])
def test_a_stopped_run_that_is_killed_before_its_test_stays_stopped(
    scores: tuple[float, ...], run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = ("task.fit={monitor: mse, patience: 1}", "trainer.max_epochs=4")
    script(monkeypatch, *scores)
    whole = run(*stopping, into="whole")
    assert value(whole, "steps") == (8 if scores[0] == 1.0 else 12)
    with monkeypatch.context() as kill:
        kill.setattr(toy.Toy, "test_step", lambda *_: toy._fail())
        broken = run(*stopping, into="broken")
    assert broken.status is Status.FAILED
    assert validated(broken) == validated(whole)
    assert value(broken, "steps") == value(whole, "steps")
    assert quality(run(*stopping, into="broken")) == quality(whole)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04 cut off", "RuntimeError: "),
        ({"model": 1}, "KeyError: 'epoch'"),
        ([1, 2], "ValueError: a list, not a checkpoint"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_set_aside(
    content: Any,
    reason: str,
    run: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = ("run.keep_checkpoints=true", "trainer.max_epochs=1")
    first = run(*settings)
    last = tmp_path / "results/train/checkpoints" / first.run_id / "last.ckpt"
    if isinstance(content, bytes):
        last.write_bytes(content)
    else:
        torch.save(content, last)
    RecordStore(tmp_path / "results/train").path(first.run_id).unlink()
    again = run(*settings)
    assert quality(again) == quality(first)
    assert f"attnbench: unusable checkpoint {last} ({reason}" in capsys.readouterr().out


def test_a_checkpoint_without_its_best_weights_is_not_gone_on_from(
    run: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(into="whole")
    next(stop_at(monkeypatch, call=10))
    run(into="broken")
    (best,) = (tmp_path / "broken").rglob("best-*.ckpt")
    best.unlink()
    assert quality(run(into="broken")) == quality(whole)
    assert "best-8.ckpt is missing beside it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (("trainer.max_steps=6",), [4, 6]),
        (("trainer.max_steps=3",), [3]),  # less than an epoch
        (("trainer.max_steps=3", "task.fit={monitor: mse, patience: 1}"), [3]),
        (("trainer.max_steps=8",), [4, 8]),
        (("+trainer.max_time='00:00:00:00'",), [0]),
        (("+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"), [8, 12]),
        (("+trainer.val_check_interval=3", "trainer.max_epochs=1"), [3, 4]),
        (("trainer.max_steps=3", "+trainer.min_epochs=2"), [3]),
    ],
)
def test_the_last_step_is_validated_whatever_ends_the_training(
    overrides: tuple[str, ...], steps: list[int], run: Train
) -> None:
    record = run(*overrides)
    assert record.status is Status.OK
    assert validated(record) == steps
    assert value(record, "steps") == steps[-1]


def test_the_record_says_which_step_was_tested(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, 3.0, 1.0, 2.0)
    record = run("trainer.max_steps=10")
    assert value(record, "tested_step") == 8
    (test,) = [m for m in record.measurements if m.metric == "mse" and m.split == "test"]
    assert test.comment == "checkpoint of the best validation mse, step 8"
    assert test.step is None  # it is no point of the curve
    script(monkeypatch, 3.0, 2.0, 1.0)
    assert value(run("trainer.max_steps=11"), "tested_step") == 11  # weights that no epoch ended on


def test_scores_that_need_no_writing_are_recorded_where_nothing_can_be_written(
    run: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def write(*_: Any) -> None:
        raise NotImplementedError("Mine has no decoding step")

    monkeypatch.setattr(toy.Toy, "predict_step", write, raising=False)
    record = run("trainer.max_epochs=1")
    assert record.status is Status.UNSUPPORTED
    assert "Mine has no decoding step" in record.error
    found = {(m.metric, m.split) for m in record.measurements if m.value is not None}
    assert {("mse", "validation"), ("mse", "test"), ("steps", "train")} <= found
    assert not (tmp_path / "results/train/checkpoints" / record.run_id).exists()


def test_a_loss_that_is_nan_ends_the_run_and_names_the_step(
    run: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loss, calls = toy.Toy.loss, 0

    def poisoned(self: toy.Toy, batch: Tensor) -> tuple[Tensor, int]:
        nonlocal calls
        calls += 1
        mean, count = loss(self, batch)
        return mean * (math.nan if calls == 7 else 1.0), count

    monkeypatch.setattr(toy.Toy, "loss", poisoned)
    record = run("trainer.max_epochs=4")
    assert record.status is Status.DIVERGED
    assert record.error == "diverged: the loss became NaN or infinite in step 7"
    assert validated(record) == [4]
    assert not [m for m in record.measurements if m.split == "test"]
    assert not (tmp_path / "results/train/checkpoints" / record.run_id).exists()


def test_a_validation_that_is_nan_is_no_number_of_the_curve(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, 1.0, math.nan, 0.5)
    record = run()
    assert record.status is Status.DIVERGED
    assert record.error == "diverged: mse is nan in the validation after step 8"
    assert validated(record) == [4]


def test_a_test_that_is_nan_is_no_number(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def test_step(self: toy.Toy, batch: Tensor, batch_idx: int) -> None:
        self.log("mse", torch.tensor(math.nan), batch_size=len(batch))

    monkeypatch.setattr(toy.Toy, "test_step", test_step)
    record = run("trainer.max_epochs=1")
    assert record.status is Status.DIVERGED
    assert validated(record) == [4]
    assert not [m for m in record.measurements if m.split == "test"]
