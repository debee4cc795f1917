"""Every experiment of conf/experiment/mad and zoology composes, and its data and model fit."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

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
    """Each as it stands, and with the last value of each of its sweeps."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"+experiment={name}"], return_hydra_config=True)
        swept = [f"{key}={values}" for key, values in config.hydra.sweeper.params.items()]
        last = [
            f"{sweep.get_key_element()}={list(sweep.sweep_string_iterator())[-1]}"
            if sweep.is_sweep_override()
            else str(sweep.input_line)
            for sweep in OverridesParser.create().parse_overrides(swept)
        ]
        config = compose("train", [f"+experiment={name}"])
        fits(compose("train", [f"+experiment={name}", *last]))
    fits(config)


def fits(config: DictConfig) -> None:
    check("train", config)
    data = instantiate(config.task.data)
    with torch.device("meta"):
        build = instantiate(config.task.model, _partial_=True)
        slots = AttentionSlots(factory(config.attention), Pattern(config.pattern))
        build(slots=slots, **data.facts)
    assert OmegaConf.is_config(config.trainer)
