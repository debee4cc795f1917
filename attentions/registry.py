"""The registry of mechanisms: the folder conf/attention, where one YAML names each class."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from attentions.base import Attention, Pattern

CONF = Path(__file__).resolve().parents[1] / "conf"

AttentionFactory = Callable[..., Attention]
"""Called as factory(embed_dim, num_heads, pattern, **place); a place is what `Attention` takes."""


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


def factory(config: DictConfig) -> AttentionFactory:
    """The constructor that the settings describe, with all but the common arguments bound.

    Raises:
        ValueError: If `_target_` names nothing that can be imported, or no Attention.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    target = settings.pop("_target_")
    cls = mechanism(target)

    def build(embed_dim: int, num_heads: int, pattern: Pattern, **common: Any) -> Attention:
        # A constructor may compare by identity, which a plain string would not have.
        pattern = Pattern(pattern)
        try:
            return cls(embed_dim, num_heads, pattern, **settings, **common)
        except TypeError as error:
            raise ValueError(f"{target}: {error}") from error

    return build


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
