"""Every experiment of conf/experiment/mad and zoology composes, and its data and model fit."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from attentions.base import Pattern
from attentions.registry import CONF, factory
from runners.settings import check
from tasks.base import AttentionSlots

EXPERIMENTS = sorted(
    f"{path.parent.name}/{path.stem}"
    for suite in ("mad", "zoology")
    for path in (CONF / "experiment" / suite).glob("*.yaml")
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_one_that_can_be(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"+experiment={name}"])
    check("train", config)
    data = instantiate(config.task.data)
    with torch.device("meta"):
        build = instantiate(config.task.model, _partial_=True)
        slots = AttentionSlots(factory(config.attention), Pattern(config.pattern))
        build(slots=slots, **data.facts)
    assert OmegaConf.is_config(config.trainer)
