"""CAB's tables as experiments: every task and mechanism of each exists and has its pattern."""

from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from attentions.base import Pattern
from attentions.registry import CONF, load, mechanism
from runners.identity import labels
from runners.mistakes import one_line
from runners.records import settings_id
from runners.report.published.cab import ATTENTIONS, METRICS, TASKS, read
from runners.settings import check

SIZES = ("tiny", "paper")
BOARDS = [pattern.value for pattern in Pattern]
TABLES = sorted(path.stem for path in (CONF / "experiment" / "cab").glob("*.yaml"))
TRAINED = [name for name in TABLES if name != "efficiency_length"]
PATTERN_OF = {"benefit_of_attention": "noncausal_self", "extrapolation": "causal_self"}
CLAIMS = {"noncausal_self": 10, "causal_self": 5, "noncausal_cross": 4, "causal_cross": 3}
"""How many mechanisms CAB has in each pattern, FlashAttention aside."""


def composed(command: str, *overrides: str, whole: bool = False) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, list(overrides), return_hydra_config=whole)


def swept(name: str, size: str) -> dict[str, list[str]]:
    """What an experiment goes over at a size, by its two files."""
    files = (f"sweep/cab/{name}_{size}", f"experiment/cab/{name}")
    params = [
        OmegaConf.select(OmegaConf.load(CONF / f"{file}.yaml"), "hydra.sweeper.params") or {}
        for file in files
    ]
    return {key: str(values).split(",") for of in params for key, values in of.items()}


def task_file(name: str) -> Any:
    """The settings of a task, on top of those that it says it differs from."""
    own: Any = OmegaConf.load(CONF / "task" / f"{name}.yaml")
    others = [other.partition("@")[0] for other in own.pop("defaults", []) if other != "_self_"]
    return OmegaConf.merge(*map(task_file, others), own)


PAPERS = sorted({task for name in TRAINED for task in swept(name, "paper")["task"]})


@pytest.mark.parametrize("name", TABLES)
def test_hydra_finds_what_a_table_goes_over(name: str) -> None:
    command = "speed" if name == "efficiency_length" else "train"
    for size in SIZES:
        config = composed(command, f"+experiment=cab/{name}", f"size={size}", whole=True)
        params = config.hydra.sweeper.params.items()
        assert {key: str(values).split(",") for key, values in params} == swept(name, size)
        assert config.run.sweep == f"cab_{name}_{size}"
        if command == "train" and name != "correlation":
            assert config.pattern == (name if name in BOARDS else PATTERN_OF[name])


@pytest.mark.parametrize("name", TRAINED)
def test_every_choice_of_a_table_exists_and_has_its_pattern(name: str) -> None:
    for size in SIZES:
        over = swept(name, size)
        patterns = over.get("pattern", [PATTERN_OF.get(name, name)])
        for task in over["task"]:
            own = get_class(task_file(task).model._target_).patterns
            assert own & set(map(Pattern, patterns)), task
        for attention in over["attention"]:
            claimed = mechanism(load(attention)._target_).patterns
            assert claimed & set(map(Pattern, patterns)), attention


@pytest.mark.parametrize("task", PAPERS)
def test_the_paper_knows_where_the_data_of_each_task_are(task: str) -> None:
    data, path = task_file(task).data, CONF / "source" / f"{task}.yaml"
    where = OmegaConf.to_container(OmegaConf.load(path).task.data) if path.exists() else {}
    assert isinstance(where, dict)
    assert set(where) <= set(data)
    missing = {str(key) for key in data if OmegaConf.is_missing(data, key)}
    assert missing <= set(where)
    assert all(v == "hub" or str(v).startswith("${run.data_dir}/") for v in where.values())


def test_the_folder_of_the_data_is_one_setting() -> None:
    chosen = ["+experiment=cab/noncausal_cross", "size=paper", "task=forecasting/etth1_s"]
    config = composed("train", *chosen, "run.data_dir=/d")
    assert config.task.data.source == "/d/forecasting/ETTh1.csv"
    check("train", config)
    tiny = composed("train", "+experiment=cab/noncausal_cross", "task=forecasting/tiny")
    assert tiny.task.data.source == "generated"


@pytest.mark.parametrize("pattern", BOARDS)
def test_a_leaderboard_has_the_tasks_and_mechanisms_of_cabs(pattern: str) -> None:
    constants = read("ci_constants")
    theirs = set(constants.loc[constants["pattern"].eq(pattern), "task"])
    over = swept(pattern, "tiny")
    ours = {task_file(task).name for task in over["task"]}
    assert {TASKS[name] for name in ours} == theirs
    tasks = read("tasks")
    known = set(tasks.loc[tasks["pattern"].eq(pattern), "attention"]) - {"flash_attention"}
    assert set(over["attention"]) == known | {"none"}
    assert len(known) == CLAIMS[pattern]
    assert set(tasks["metric"]) == set(METRICS.values())


def test_the_constants_of_cab_are_those_of_its_efficiency_experiment() -> None:
    found = {name: load(name) for name in ATTENTIONS.values() if name != "flash_attention"}
    assert {found[name].num_landmarks for name in ("nystrom", "lara", "longshort")} == {16}
    assert found["local_window"].window == found["longshort"].window == 16
    assert (found["nystrom"].conv_kernel, found["probsparse"].factor) == (5, 5)
    assert (found["performer"].num_features, found["abc"].num_slots) == (16, 16)
    s4d = composed("train", "+experiment=cab/causal_self", "attention=s4d",
                   "task=language_modeling/tiny").attention  # fmt: skip
    assert (s4d.state_size, s4d.init, s4d.channels) == (16, "inv", 1)
    cost = composed("speed", "+experiment=cab/efficiency_length", "attention=s4d", "size=paper")
    assert cost.attention.channels == cost.num_heads == 8
    check("speed", cost)


def test_the_costs_are_measured_at_cabs_shapes_in_every_pattern() -> None:
    config = composed("speed", "+experiment=cab/efficiency_length", "size=paper", whole=True)
    assert (config.embed_dim, config.num_heads, config.batch_size) == (512, 8, 4)
    assert list(config.seq_lens) == [256, 512, 1024, 2048, 4096, 8192]
    assert set(config.passes) == {"forward", "forward_backward", "decode"}
    assert config.hydra.sweeper.params.pattern.split(",") == BOARDS
    tiny = composed("speed", "+experiment=cab/efficiency_length")
    assert tiny.embed_dim < config.embed_dim
    check("speed", tiny)


@pytest.mark.parametrize("command", ["train", "speed"])
def test_the_size_says_nothing_that_identifies_a_run(command: str) -> None:
    ids = {
        settings_id(command, cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))
        for config in (composed(command, f"size={size}") for size in SIZES)
    }
    assert len(ids) == 1
    config = composed(command, "size=paper", whole=True)
    assert labels(config, config.hydra)["variant"] == ""
    assert "size" not in composed(command)


def test_a_wrong_size_is_one_error_that_names_both() -> None:
    with pytest.raises(MissingConfigException) as error:
        composed("train", "+experiment=cab/causal_self", "size=papr")
    assert (
        one_line(error.value) == "unknown size 'papr', did you mean 'paper'? (known: paper, tiny)"
    )


@pytest.mark.parametrize("name", TABLES)
def test_each_says_how_it_is_run_what_it_costs_and_what_to_expect(name: str) -> None:
    text = (CONF / "experiment" / "cab" / f"{name}.yaml").read_text("utf-8")
    command = "speed" if name == "efficiency_length" else "train"
    assert f"# Run:    attnbench {command} -m +experiment=cab/{name} size=tiny" in text
    assert all(f"# {word}" in text for word in ("Cost:", "Expect:"))


def test_no_setting_of_cab_is_for_a_mechanism_that_is_not_there() -> None:
    for path in (CONF / "settings").rglob("*.yaml"):
        assert set(OmegaConf.load(path).attention) <= set(load(path.stem)), path
