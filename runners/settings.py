"""What settings may be: every number and word is checked here, before a run reads data or builds.

What the commands read themselves is typed below. What goes to a constructor of a task, a mechanism
or the Trainer has the types of its signature, and in a task the bounds of its name.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypedDict,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, PydanticUserError, TypeAdapter, ValidationError

from attentions.registry import mechanism

WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
}

Size = Annotated[int, Field(ge=1, description="a positive integer")]
Count = Annotated[int, Field(ge=0, description="an integer of at least 0")]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="an integer in [0, 2**32)")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a positive number")]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number of at least 0")]
Rate = Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")]
Share = Annotated[float, Field(gt=0, le=1, description="a share in (0, 1]")]
Name = Annotated[str, Field(min_length=1, description="a name")]
Sizes = Annotated[list[Size], Field(min_length=1, description="a list of positive integers")]
Names = Annotated[list[Name], Field(min_length=1, description="a list of names")]
Limit = Size | Literal[-1] | None
Ranks = Annotated[list[Count], Field(min_length=1, description="a list of devices")]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "float64", "bfloat16", "float16"]


class RunSettings(TypedDict, total=False):
    """The group `run`."""

    results: Name
    sweep: Name
    data_dir: Name
    force: bool
    timeout_s: Positive | None
    memory_gib: Positive | None
    threads: Size | None
    data_workers: Count
    keep_checkpoints: bool
    progress: str | None


class TrainerSettings(TypedDict, total=False):
    """The groups `trainer` and `task.trainer`: what the Trainer itself would let pass."""

    max_epochs: Limit
    max_steps: Limit
    accumulate_grad_batches: Size | None
    devices: Size | Literal[-1, "auto"] | Ranks | None
    gradient_clip_val: Positive | None
    limit_train_batches: Size | Share | None
    limit_val_batches: Size | Share | None
    limit_test_batches: Size | Share | None


class FitSettings(TypedDict, total=False):
    """The group `task.fit`."""

    monitor: Name | None
    patience: Size | None


class TrainSettings(TypedDict, total=False):
    """`attnbench train`."""

    seed: Seed
    device: Device
    pattern: str


class SpeedSettings(TypedDict, total=False):
    """`attnbench speed`."""

    seq_lens: Sizes
    query_ratio: Positive
    passes: Names
    embed_dim: Size
    num_heads: Size
    batch_size: Size
    dtype: Dtype
    device: Device
    baseline: Name
    min_run_time_s: Positive
    max_call_s: Positive
    seed: Seed
    pattern: str


class VerifySettings(TypedDict, total=False):
    """`attnbench verify`."""

    embed_dim: Size
    num_heads: Size
    lengths: Sizes
    long_len: Size
    max_len: Size
    dtype: Dtype
    device: Device
    seed: Seed
    pattern: str | None


COMMANDS: Mapping[str, tuple[type, Sequence[str]]] = {
    "train": (TrainSettings, ("run", "attention", "task", "trainer")),
    "speed": (SpeedSettings, ("run", "attention")),
    "verify": (VerifySettings, ("run", "attention")),
}
"""What each command reads itself, and the groups that it needs."""
BOUNDS = {
    "label_len": Count,
    "min_summary_len": Count,
    "num_distractors": Count,
    "num_graph_layers": Count,
    "horizon": Size,
    "warmup_steps": Size,
    "lr": Positive,
    "eps": Positive,
    "init_std": Positive,
    "betas": Rate,
    "label_smoothing": Rate,
    "weight_decay": Amount,
    "seed": Seed,
}
"""What a number of a task must be that has this name."""
BOUNDS_BY_ENDING = {"_dim": Size, "_size": Size, "_len": Size, "_lens": Size, "dropout": Rate}


class SettingError(ValueError):
    """A setting that no run can have; the message names it, what was expected, and its value."""

    @classmethod
    def of(cls, name: str, expected: str, value: Any) -> "SettingError":
        """Word it."""
        return cls(f"{name} must be {expected}, got {json.dumps(value, default=str)}")


def check(command: str, config: DictConfig) -> None:
    """Check every setting of a run.

    Raises:
        SettingError: At the first that is wrong.
        ValueError: If a class that a setting names cannot be imported.
        MissingMandatoryValue: If one was left for the user to choose.
    """
    settings = cast(
        dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    )
    fields, groups = COMMANDS[command]
    for group in groups:
        if not isinstance(settings.get(group), Mapping):
            raise SettingError.of(group, "a group of settings", settings.get(group))
    _check_fields(fields, settings, "")
    _check_fields(RunSettings, settings["run"], "run.")
    _check_heads(settings, "")
    target = settings["attention"]["_target_"]
    if target.startswith("attentions."):  # code of the user's own is first imported by its run
        _check_call(mechanism(target), settings["attention"], "attention.")
    if command == "train":
        _check_trainer(settings["trainer"], "trainer.")
        _check_task(settings["task"])


def _check_task(task: Mapping[str, Any]) -> None:
    for part in ("model", "data"):
        path, cls = f"task.{part}.", get_class(task[part]["_target_"])
        for name, value in task[part].items():
            bounds = _bounds(name)
            if bounds is not None and not (value is None and name in _hints(cls)):
                _check(list[bounds] if isinstance(value, list) else bounds, value, path + name)
        _check_call(cls, task[part], path)
    _check_heads(task["model"], "task.model.")
    _check_trainer(task["trainer"], "task.trainer.")
    _check_fields(FitSettings, task["fit"], "task.fit.")
    monitor, patience = task["fit"].get("monitor"), task["fit"].get("patience")
    metrics = get_class(task["model"]["_target_"]).directions
    if monitor is None and patience is not None:
        expected = f"one of {', '.join(metrics)} where task.fit.patience is {patience}"
        raise SettingError.of("task.fit.monitor", expected, monitor)
    if monitor is not None and monitor not in metrics:
        raise SettingError.of("task.fit.monitor", f"one of {', '.join(metrics)} or null", monitor)


def _check_trainer(arguments: Mapping[str, Any], path: str) -> None:
    from lightning.pytorch import Trainer

    known = inspect.signature(Trainer.__init__).parameters
    for name in arguments:
        if name not in known:
            raise SettingError(f"{path}{name}: the Trainer of Lightning has no such argument")
    _check_fields(TrainerSettings, arguments, path)
    given = {name: value for name, value in arguments.items() if value is not None}
    _check_call(Trainer, given, path)


def _check_heads(settings: Mapping[str, Any], path: str) -> None:
    embed_dim, num_heads = settings.get("embed_dim"), settings.get("num_heads")
    if embed_dim is not None and num_heads is not None and embed_dim % num_heads:
        expected = f"a divisor of {path}embed_dim = {embed_dim}"
        raise SettingError.of(f"{path}num_heads", expected, num_heads)


def _check_fields(fields: type, settings: Mapping[str, Any], path: str) -> None:
    for name, expected in get_type_hints(fields, include_extras=True).items():
        if name in settings:
            _check(expected, settings[name], path + name)


def _check_call(cls: type, arguments: Mapping[str, Any], path: str) -> None:
    """Check what a constructor is given by its annotations, where it has any."""
    for name, expected in _hints(cls).items():
        if name in arguments:
            _check(expected, arguments[name], path + name)


def _hints(cls: type) -> dict[str, Any]:
    """The annotations of a constructor, and of those that it hands its keyword arguments to."""
    hints: dict[str, Any] = {}
    for init in (vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)):
        with suppress(NameError, TypeError, AttributeError):  # names that only a type checker knows
            hints = get_type_hints(inspect.unwrap(init), include_extras=True) | hints
        parameters = inspect.signature(init).parameters.values()
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return hints


def _bounds(name: str) -> Any:
    if name in BOUNDS:
        return BOUNDS[name]
    if name.startswith("num_"):
        return Size
    return next((kind for ending, kind in BOUNDS_BY_ENDING.items() if name.endswith(ending)), None)


def _check(expected: Any, value: Any, name: str) -> None:
    try:
        adapter = TypeAdapter(expected)
    except PydanticUserError:  # no text on a command line can be of this type
        return
    try:
        # As JSON, where a list can be a tuple and a text a path, but no other type another.
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise SettingError.of(name, _words(expected), value) from error


def _words(expected: Any) -> str:
    """A type in the words of the command line."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Annotated:
        told = (getattr(field, "description", None) for field in arguments[1:])
        return next(filter(None, told), _words(arguments[0]))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_words, arguments)))
    if origin is Literal:
        return " or ".join(dict.fromkeys(map(str, arguments)))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {_words(arguments[0])}" if arguments else "a list"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a group of settings"
    return WORDS.get(expected, getattr(expected, "__name__", str(expected)))
