"""What a mechanism trains at a rate of its own, or without weight decay, is so in every task."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import get_class

from attentions.base import Pattern
from attentions.recurrent.s4d import S4dAttention
from attentions.registry import CONF
from tests.tasks.building import build_data, build_model, settings

TASKS = sorted(f"{path.parent.name}/tiny" for path in (CONF / "task").glob("*/tiny.yaml"))


def names(model: Any, group: dict[str, Any]) -> set[str]:
    """What stands in a group, by the last part of its name."""
    chosen = {id(p) for p in group["params"]}
    return {name.rpartition(".")[2] for name, p in model.named_parameters() if id(p) in chosen}


@pytest.mark.parametrize(("lr", "slow"), [(0.1, 1e-3), (1e-4, 1e-4)])
def test_modes_and_steps_of_s4d_are_slow_and_do_not_decay(lr: float, slow: float) -> None:
    model = build_model("mqar/tiny", build_data("mqar/tiny"), "s4d", "causal_self")
    rest, modes = model.parameter_groups(lr)
    assert names(model, modes) == {"log_step", "log_decay", "frequency"}
    assert names(model, modes).isdisjoint(names(model, rest))
    assert len(modes["params"]) == 3 * len(model.slots.under_test)
    assert len(rest["params"]) + len(modes["params"]) == len(list(model.parameters()))
    assert modes["lr"] == slow
    assert modes["weight_decay"] == 0.0
    assert rest.keys() == {"params"}


@pytest.mark.parametrize(
    ("name", "spared"),
    [
        ("mamba2", {"dt_bias", "log_a", "skip"}),
        ("gated_deltanet", {"log_rate", "decay_shift"}),
    ],
)
def test_rates_of_forgetting_do_not_decay(name: str, spared: set[str]) -> None:
    model = build_model("mqar/tiny", build_data("mqar/tiny"), name, "causal_self")
    _, group = model.parameter_groups(0.1)
    assert names(model, group) == spared
    assert group["lr"] == 0.1
    assert group["weight_decay"] == 0.0


def test_filters_of_hyena_do_not_decay_and_have_the_rate_of_the_task() -> None:
    model = build_model("mqar/tiny", build_data("mqar/tiny"), "hyena", "causal_self")
    rest, filters = model.parameter_groups(0.1)
    long = {p for n, p in model.named_parameters() if ".long." in n and not n.endswith("skip")}
    assert long
    assert {id(p) for p in filters["params"]} == {id(p) for p in long}
    assert filters["lr"] == 0.1
    assert filters["weight_decay"] == 0.0
    assert rest.keys() == {"params"}


def test_others_are_one_group() -> None:
    model = build_model("mqar/tiny", build_data("mqar/tiny"), "softmax", "causal_self")
    (group,) = model.parameter_groups(0.1)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]


def test_a_schedule_keeps_the_ratio_of_the_rates() -> None:
    task = "forecasting/tiny"
    data = build_data(task, num_windows=64, batch_size=8)
    model = build_model(task, data, "s4d", Pattern.NONCAUSAL_SELF, lr=0.004)
    [optimizer], [schedule] = model.configure_optimizers()
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates == [[0.004, 0.001], [0.004, 0.001], [0.002, 0.0005], [0.001, 0.00025]]


@pytest.mark.slow  # trains a tokenizer for some
@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_by_these_groups(task: str) -> None:
    claimed = get_class(settings(task)["model"]["_target_"]).patterns & S4dAttention.patterns
    data = build_data(task, min(claimed))
    model = build_model(task, data, "s4d", min(claimed), lr=0.004)
    trainer = SimpleNamespace(estimated_stepping_batches=10)
    model.trainer = trainer
    configured = model.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured[0][0]
    assert isinstance(optimizer, torch.optim.Optimizer)
    rest, *_, modes = optimizer.param_groups  # between them what the task itself spares
    assert names(model, modes) == {"log_step", "log_decay", "frequency"}
    assert modes["weight_decay"] == 0.0
    assert modes["lr"] / rest["lr"] == pytest.approx(1 / 4)
    assert math.isclose(rest["initial_lr"], 0.004)
