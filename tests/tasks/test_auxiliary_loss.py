"""What a mechanism adds to the loss reaches it in every task of conf/task."""

import pytest
import torch
from hydra.utils import get_class

from attentions.registry import CONF
from tests.tasks.building import build_data, build_model, settings

TASKS = sorted(f"{path.parent.name}/tiny" for path in (CONF / "task").glob("*/tiny.yaml"))


@pytest.mark.slow  # trains a tokenizer for some
@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_a_step_has_the_auxiliary_losses(task: str) -> None:
    pattern = min(get_class(settings(task)["model"]["_target_"]).patterns)
    data = build_data(task, pattern)
    model = build_model(task, data, "softmax", pattern)
    batch = next(iter(data.train_dataloader()))
    model.train()
    losses = []
    for extra in (None, torch.tensor(0.5)):
        for attention in model.slots.under_test:
            attention.auxiliary_loss = extra
        torch.manual_seed(0)  # the same dropout
        losses.append(model.training_step(batch, 0))
    added = losses[1] - losses[0]
    assert added.item() == pytest.approx(0.5, abs=1e-5)  # the mean over the attentions


def test_a_balance_loss_trains_the_router() -> None:
    data = build_data("mqar/tiny")
    model = build_model("mqar/tiny", data, "moh", "causal_self", num_heads=4)
    model.training_step(next(iter(data.train_dataloader())), 0)
    losses = [attention.auxiliary_loss for attention in model.slots.under_test]
    assert all(loss.item() > 0 for loss in losses)
    mean = sum(loss.item() for loss in losses) / len(losses)
    assert model.auxiliary_loss().item() == pytest.approx(mean)
    assert all(loss.requires_grad for loss in losses)


def test_layers_without_an_auxiliary_loss_do_not_dilute_it() -> None:
    model = build_model("mqar/tiny", build_data("mqar/tiny"), "softmax", "causal_self")
    assert model.auxiliary_loss() == 0.0
    first, *others = model.slots.under_test
    assert others
    first.auxiliary_loss = torch.tensor(0.5)
    assert model.auxiliary_loss().item() == 0.5
