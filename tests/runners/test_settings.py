"""A setting that no run can have is refused before anything runs, by its name and value."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from attentions.registry import CONF, names
from runners.list import _choices
from runners.settings import SettingError, check


def composed(command: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, list(overrides))


def checked(command: str, *overrides: str) -> None:
    check(command, composed(command, *overrides))


COUNT, SHARE, TEXT = "a positive integer", "a positive number", "a name"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("train task.data.num_train=0", f"task.data.num_train must be {COUNT}, got 0"),
        ("train task.data.batch_size=1.5", f"task.data.batch_size must be {COUNT}, got 1.5"),
        ("train task.data.num_pairs=[4,0]", f"num_pairs must be a list, each {COUNT}, got .4, 0"),
        ("train task.data.filler=3", "task.data.filler must be true or false, got 3"),
        ("train task.model.embed_dim=null", f"task.model.embed_dim must be {COUNT}, got null"),
        ("train task.model.num_heads=3", "must be a divisor of task.model.embed_dim = 64, got 3"),
        ("train task.model.dropout=1.0", r"dropout must be a number in \[0, 1\), got 1.0"),
        ("train task.model.lr=0", f"task.model.lr must be {SHARE}, got 0"),
        ("train task.model.lr=nan", f"task.model.lr must be {SHARE}, got NaN"),
        ("train task=forecasting/tiny task.model.ffn_dim=x", f"must be {COUNT}, got .x"),
        ("train task=language_modeling/tiny task.data.context_lens=16", "must be a list.*got 16"),
        (
            "train task=pathfinder/tiny +task.data.changes=[1]",
            "changes must be a group of settings",
        ),
        ("train task=pathfinder/tiny task.data.num_distractors=-1", "an integer of at least 0"),
        ("train task.fit.monitor=foo", "task.fit.monitor must be one of accuracy or null.*foo"),
        ("train task.fit.patience=2", "monitor must be one of accuracy where .*patience is 2"),
        ("train trainer.max_steps=0", f"trainer.max_steps must be {COUNT} or -1 or null, got 0"),
        ("train task.trainer.max_epochs=1.5", f"task.trainer.max_epochs must be {COUNT}"),
        ("train trainer.accumulate_grad_batches=0", f"must be {COUNT} or null, got 0"),
        ("train trainer.devices=0", f"trainer.devices must be {COUNT} or -1 or auto.*got 0"),
        ("train trainer.precision=foo", "trainer.precision must be .*bf16-mixed .*got .foo"),
        ("train +trainer.foo=1", "trainer.foo: the Trainer of Lightning has no such argument"),
        ("train attention=local_window attention.window=1.5", "window must be an integer, got 1.5"),
        ("train run.timeout_s=-5", f"run.timeout_s must be {SHARE} or null, got -5"),
        ("train run.threads=0", f"run.threads must be {COUNT} or null, got 0"),
        ("train run.threads=abc", f"run.threads must be {COUNT} or null, got .abc"),
        ("train run.memory_gib=0", f"run.memory_gib must be {SHARE} or null, got 0"),
        ("train run.results=null", f"run.results must be {TEXT}, got null"),
        ("train run.force=abc", "run.force must be true or false, got .abc"),
        ("train seed=abc", "seed must be an integer .*got .abc"),
        ("train seed=-1", "seed must be an integer .*got -1"),
        ("train device=gpu", "device must be auto or cpu or cuda, got .gpu"),
        ("speed seq_lens=16", "seq_lens must be a list of positive integers, got 16"),
        ("speed seq_lens=[0,16]", r"seq_lens must be a list of positive integers, got \[0, 16\]"),
        ("speed seq_lens=[]", "seq_lens must be a list of positive integers"),
        ("speed batch_size=0", f"batch_size must be {COUNT}, got 0"),
        ("speed query_ratio=-1", f"query_ratio must be {SHARE}, got -1"),
        ("speed min_run_time_s=no", f"min_run_time_s must be {SHARE}, got .no"),
        ("speed max_call_s=long", f"max_call_s must be {SHARE}, got .long"),
        ("speed dtype=float23", "dtype must be float32 or float64 or bfloat16 or float16"),
        ("speed num_heads=3", "num_heads must be a divisor of embed_dim = 128, got 3"),
        ("verify lengths=5", "lengths must be a list of positive integers, got 5"),
        ("verify lengths=[0]", r"lengths must be a list of positive integers, got \[0\]"),
        ("verify embed_dim=30", "num_heads must be a divisor of embed_dim = 30, got 4"),
        ("verify num_heads=0", f"num_heads must be {COUNT}, got 0"),
        ("verify seed=abc", "seed must be an integer"),
    ],
)
def test_a_setting_that_no_run_can_have_is_named(line: str, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        checked(*line.split())


@pytest.mark.parametrize("name", names())
def test_every_mechanism_can_have_its_own_settings(name: str) -> None:
    checked("speed", f"attention={name}")


@pytest.mark.parametrize("name", _choices("task"))
def test_every_task_can_have_its_own_settings(name: str) -> None:
    data = composed("train", f"task={name}").task.data
    chosen = [f"task.data.{key}=somewhere" for key in data if OmegaConf.is_missing(data, key)]
    checked("train", f"task={name}", *chosen, "trainer.precision=bf16-mixed")


def test_an_image_may_have_no_distractors() -> None:
    checked("train", "task=pathfinder/tiny", "task.data.num_distractors=0")


def test_what_is_left_to_choose_is_named() -> None:
    with pytest.raises(MissingMandatoryValue, match=r"task\.data\.source"):
        checked("train", "task=forecasting/paper")
