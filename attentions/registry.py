"""The registry of mechanisms: the folder conf/attention, where one YAML names each class."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from attentions.base import Attention, Pattern

CONF = Path(__file__).resolve().parents[1] / "conf"

AttentionFactory = Callable[..., Attention]
"""Called as factory(embed_dim, num_heads, pattern, *, dropout, max_len, grid)."""


def names() -> list[str]:
    """Every mechanism of the conf folder, but the placeholder for the user's own."""
    return sorted(
        path.stem for path in (CONF / "attention").glob("*.yaml") if path.stem != "custom"
    )


def load(name: str) -> DictConfig:
    """The settings of the mechanism `name`.

    Raises:
        ValueError: If there is none of that name; the nearest and the known are named.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown attention {name!r}{hint} (known: {', '.join(known)})")
    return cast(DictConfig, OmegaConf.load(CONF / "attention" / f"{name}.yaml"))


@dataclass(frozen=True)
class BoundFactory:
    """The constructor of a mechanism, with all but the common arguments bound."""

    cls: type[Attention]
    settings: Mapping[str, Any]

    def __call__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, **common: Any
    ) -> Attention:
        """Build it; see `AttentionFactory`."""
        try:
            return self.cls(embed_dim, num_heads, pattern, **self.settings, **common)
        except TypeError as error:
            target = f"{self.cls.__module__}.{self.cls.__qualname__}"
            raise ValueError(f"{target}: {error}") from error

    def at_layer(self, layer: int) -> "BoundFactory":
        """The one for this depth of a backbone, where the settings have a `layer`."""
        if "layer" not in self.settings:
            return self
        return BoundFactory(self.cls, {**self.settings, "layer": layer})


def factory(config: DictConfig) -> BoundFactory:
    """The constructor that the settings describe.

    Raises:
        ValueError: If `_target_` names nothing that can be imported, or no Attention.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    return BoundFactory(mechanism(settings.pop("_target_")), settings)


def mechanism(target: str) -> type[Attention]:
    """The class at an import path.

    Raises:
        ValueError: If it cannot be imported, or is no subclass of Attention.
    """
    try:
        cls = get_class(target)
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"cannot import the attention {target!r}: {cause}") from error
    if not issubclass(cls, Attention):
        raise ValueError(f"{target!r} must be a subclass of attentions.base.Attention")
    return cls


def claims() -> list[tuple[str, Pattern]]:
    """Every (name, pattern) that a mechanism of the conf folder claims to serve."""
    return [
        (name, pattern)
        for name in names()
        for pattern in Pattern
        if pattern in mechanism(load(name)["_target_"]).patterns
    ]
