"""A task, its data and a trainer, built from conf/task as `attnbench train` builds them."""

import warnings
from typing import Any, cast

from hydra.utils import instantiate
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from attentions.base import Pattern
from attentions.registry import CONF, factory, load
from tasks.base import AttentionSlots


def settings(task: str, pattern: str = "causal_self") -> dict[str, Any]:
    """The settings of `task`, for example mqar/tiny, at seed 0."""
    loaded = OmegaConf.load(CONF / "task" / f"{task}.yaml")
    given = OmegaConf.create({"seed": 0, "pattern": pattern, "task": loaded})
    return cast(dict[str, Any], OmegaConf.to_container(given, resolve=True))["task"]


def build_data(task: str, pattern: str = "causal_self", **changes: Any) -> Any:
    """The data of `task`, ready, laid out for the pattern where that changes them."""
    data = instantiate({**settings(task, str(pattern))["data"], **changes})
    data.prepare_data()
    data.setup()
    return data


def build_model(
    task: str, data: Any, attention: str, pattern: Pattern | str, **changes: Any
) -> Any:
    """The model of `task` with one mechanism in the places of `pattern`."""
    slots = AttentionSlots(factory(load(attention)), Pattern(pattern))
    model = instantiate({**settings(task)["model"], **changes}, _partial_=True)
    return model(slots=slots, **data.facts)


def quiet_trainer(**given: Any) -> Trainer:
    """A trainer on the CPU that writes and says nothing."""
    warnings.filterwarnings("ignore", module="lightning")
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **given,
    )
