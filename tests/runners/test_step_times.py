"""The cost of a training step beside that of the same model with softmax."""

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from runners.records import Status
from tests.runners.test_train import train

SETTINGS = ("task.data.batch_size=160", "trainer.max_epochs=1", "attention=linear_elu")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_step_is_timed_in_turns_with_softmax(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[str] = []
    attended = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr("runners.step_times.MIN_RUN_TIME_S", 0.0)

    def seen(*args: Any, **kwargs: Any) -> torch.Tensor:
        models.append("softmax")
        return attended(*args, **kwargs)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", seen)
    _, record = train(monkeypatch, tmp_path, *SETTINGS, f"trainer.precision={precision}")
    assert record.status is Status.OK
    rows = {m.attention: m for m in record.measurements if m.metric == "step_time"}
    assert set(rows) == {None, "softmax"}
    for row in rows.values():
        assert row.value == statistics.median(row.samples)
        assert len(row.samples) >= 3
    assert len(models) == len(rows["softmax"].samples) + 1  # it ran once to warm up
    (ratio,) = [m for m in record.measurements if m.metric == "step_time_ratio"]
    assert ratio.comment == "to softmax, measured in turns"
    turns = zip(rows[None].samples, rows["softmax"].samples, strict=True)
    assert ratio.value == pytest.approx(statistics.median(own / other for own, other in turns))


def test_without_room_for_both_the_cost_is_empty_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crowded(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("runners.step_times.time_in_turns", crowded)
    _, record = train(monkeypatch, tmp_path, *SETTINGS)
    assert record.status is Status.OK
    rows = [m for m in record.measurements if m.metric.startswith("step_time")]
    assert [m.value for m in rows] == [None, None, None]
    assert all(m.comment.startswith("oom") for m in rows)
