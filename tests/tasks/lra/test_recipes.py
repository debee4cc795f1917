"""LRA's recipes: their parameters, counted by hand, and what the switch to 2020 changes."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from attentions.base import Pattern
from attentions.registry import CONF, factory, load, mechanism
from runners import settings as checks
from tasks.base import AttentionSlots
from tasks.lra.classification import Classification
from tests.tasks.building import settings

FACTS: dict[str, dict[str, Any]] = {
    "listops": {"vocab_size": 17, "num_classes": 10, "max_len": 2000},
    "text_classification": {"vocab_size": 257, "num_classes": 2, "max_len": 4096},
    "retrieval": {"vocab_size": 257, "num_classes": 2, "max_len": 4000, "num_documents": 2},
    "image_classification": {"vocab_size": 256, "num_classes": 10, "max_len": 32**2},
    "pathfinder": {"vocab_size": 256, "num_classes": 2, "max_len": 32**2},
}
SIDES = {"pathfinder/pathx": 128, "pathfinder/path256": 256}
EXPERIMENTS = sorted((CONF / "experiment" / "lra").rglob("*.yaml"))


def facts(recipe: str) -> dict[str, Any]:
    """What the data of a recipe say, without any."""
    task = recipe.split("/")[0]
    sides = {"max_len": SIDES[recipe] ** 2} if recipe in SIDES else {}
    side = round((FACTS[task] | sides)["max_len"] ** 0.5)
    grid = (side, side) if task in ("image_classification", "pathfinder") else None
    return {"num_documents": 1, "grid": grid, **FACTS[task], **sides}


def model(recipe: str, **changes: Any) -> Classification:
    given = {**settings(recipe)["model"], **changes}
    assert given.pop("_target_") == "tasks.lra.classification.Classification"
    slots = AttentionSlots(factory(load("softmax")), Pattern.NONCAUSAL_SELF)
    with torch.device("meta"):
        return Classification(slots, **given, **facts(recipe))


def counted(vocab: int, rows: int, cls: int, layers: int, e: int, m: int, head: list[int]) -> int:
    """Tokens, learned positions, CLS vector; blocks of four projections and two norms; a head.

    LRA's own projections have no biases: 4 e a layer fewer.
    """
    block = 4 * (e * e + e) + 2 * 2 * e + (e * m + m) + (m * e + e)
    dense = sum(a * b + b for a, b in pairwise(head))
    return (vocab + rows + cls) * e + layers * block + 2 * e + dense


@pytest.mark.parametrize(
    ("recipe", "expected", "written_out"),
    [
        ("listops/paper", counted(17, 0, 1, 4, 512, 1024, [512, 1024, 10]), 8_956_938),
        ("text_classification/paper", counted(257, 0, 1, 4, 256, 1024, [256, 1024, 2]), 3_490_818),
        ("retrieval/paper", counted(257, 0, 0, 4, 128, 512, [4 * 128, 512, 256, 2]), 1_220_738),
        ("image_classification/paper", counted(256, 1025, 1, 1, 128, 128, [128, 128, 10]), 281_738),
        ("pathfinder/paper", counted(256, 0, 0, 4, 32, 32, [32, 32, 2]), 35_234),
        ("pathfinder/pathx", counted(256, 128**2, 0, 1, 32, 32, [32, 32, 2]), 540_130),
        ("pathfinder/path256", counted(256, 256**2 + 1, 1, 2, 32, 32, [32, 32, 2]), 2_119_522),
        ("listops/standard", counted(17, 2000, 0, 2, 64, 128, [64, 128, 10]), 205_770),
        ("text_classification/standard", counted(257, 4096, 0, 2, 64, 128, [64, 128, 2]), 354_242),
        ("retrieval/standard", counted(257, 4000, 0, 2, 64, 128, [4 * 64, 128, 64, 2]), 380_802),
        (
            "image_classification/standard",
            counted(256, 1024, 0, 2, 64, 128, [64, 128, 10]),
            158_602,
        ),
        ("pathfinder/standard", counted(256, 1024, 0, 2, 64, 128, [64, 128, 2]), 157_570),
    ],
)
def test_every_recipe_has_the_parameters_of_its_sizes(
    recipe: str, expected: int, written_out: int
) -> None:
    assert sum(p.numel() for p in model(recipe).parameters()) == expected == written_out


def test_pretraining_adds_a_mask_and_what_tells_the_tokens() -> None:
    plain, pretrained = model("listops/paper"), model("listops/paper", pretrain_steps=100)
    counts = [sum(p.numel() for p in each.parameters()) for each in (pretrained, plain)]
    assert counts[0] - counts[1] == 512 + 512 * 17 + 17


def test_the_head_of_2020_joins_two_vectors() -> None:
    for protocol, width in (("fixed", 4 * 128), ("lra2020", 2 * 128)):
        head = model("retrieval/paper", protocol=protocol).classify.head
        assert head[0].in_features == width


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def test_one_switch_is_for_the_model_and_the_data() -> None:
    given = ["task=retrieval/paper", "task.model.protocol=lra2020", "task.data.source=x"]
    task = OmegaConf.to_container(composed(*given).task, resolve=True)
    assert isinstance(task, dict)
    assert task["data"]["protocol"] == "lra2020"
    assert task["trainer"]["max_steps"] == 30_000


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_can_be(path: Path) -> None:
    params = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params") or {}
    choices = {key: str(value).split(",") for key, value in params.items()}
    for group in ("task", "attention", "+experiment/lra/pretraining"):
        folder = CONF / group.lstrip("+")
        for name in choices.get(group, []):
            assert (folder / f"{name}.yaml").exists(), name
    for name in choices.get("attention", []):
        assert Pattern.NONCAUSAL_SELF in mechanism(load(name)._target_).patterns, name
    experiment = path.relative_to(CONF / "experiment").with_suffix("")
    first = [f"{key}={names[0]}" for key, names in choices.items()]
    config = composed(*first, f"+experiment={experiment}", "task.data.source=generated")
    if path.parent.name == "pretraining":  # a part of another
        return
    assert config.pattern == "noncausal_self"
    assert config.run.sweep != "train"
    checks.check("train", config)
    assert get_class(config.task.model._target_) is Classification
