"""Sums of metrics and of logged values, whatever the precision of the weights."""

from typing import Any

import pytest
import torch
from torchmetrics import MeanSquaredError

from tasks.metrics.perplexity import Perplexity
from tests.tasks.building import build_data, build_model, quiet_trainer


def model_with_metrics() -> Any:
    """A task with a metric of ours and one of torchmetrics, which sums in float32."""
    model = build_model("mqar/tiny", build_data("mqar/tiny"), "none", "causal_self")
    model.perplexity, model.mse = Perplexity(), MeanSquaredError()
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_sums_stay_as_they_are_when_the_weights_are_cast(dtype: torch.dtype) -> None:
    model = model_with_metrics()
    model.perplexity.update(3.0 * 1_000_001, 1_000_001)
    model.to(dtype)
    assert model.network.tokens.weight.dtype is dtype
    assert float(model.perplexity.compute()) == pytest.approx(20.085537, rel=1e-7)
    for metric in (model.perplexity, model.mse):
        for _ in range(2):
            floating = [t for t in metric.metric_state.values() if t.is_floating_point()]
            assert {t.dtype for t in floating} == {torch.float64}
            metric.reset()  # to defaults that are as exact
    assert model.perplexity.count.dtype is torch.int64


def test_sums_go_where_the_weights_go() -> None:
    model = model_with_metrics().to("meta")
    assert model.perplexity.total.is_meta
    model.perplexity.reset()
    assert model.perplexity.total.is_meta


def test_a_logged_tensor_is_averaged_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = build_data("mqar/tiny", num_eval=3, eval_batch_size=1)
    model = build_model("mqar/tiny", rows, "none", "causal_self")
    values = iter([2.0**24, 1.0, 1.0])  # in float32 the ones are lost

    def test_step(batch: Any, batch_idx: int) -> None:
        model.log("seen", torch.tensor(next(values)), batch_size=1)

    monkeypatch.setattr(model, "test_step", test_step)
    tested = quiet_trainer(precision="bf16-true").test(model, rows, verbose=False)[0]
    assert tested["seen"] * 3 == 2**24 + 2
