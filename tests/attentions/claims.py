"""What the contract tests share: every claim of the registry, small modules, drawn inputs."""

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from attentions import registry
from attentions.base import Attention, Pattern

EMBED_DIM, NUM_HEADS = 16, 2
MAX_LEN = 512
CLAIMS = registry.claims()


def each(claims: list[tuple[str, Pattern]]) -> pytest.MarkDecorator:
    """Run a test once for each (name, pattern)."""
    ids = [f"{name}-{pattern.short}" for name, pattern in claims]
    return pytest.mark.parametrize(("name", "pattern"), claims, ids=ids)


def mixes(name: str) -> bool:
    """Whether it moves anything between positions: all but the control do."""
    return registry.mechanism(registry.load(name)["_target_"]).mixes


each_claim = each(CLAIMS)
each_mixing_claim = each([claim for claim in CLAIMS if mixes(claim[0])])
each_causal_claim = each([claim for claim in CLAIMS if claim[1].is_causal])
each_name = pytest.mark.parametrize("name", registry.names())


def facts(name: str) -> ModuleType:
    """The oracle file of a mechanism; see tests/oracles/__init__.py."""
    return importlib.import_module(f"tests.oracles.{name}")


def block(name: str) -> int:
    """The size of the blocks around whose borders it is tested."""
    return getattr(facts(name), "BLOCK", 8)


def build(name: str, pattern: Pattern, **settings: Any) -> Attention:
    """A small module in float64 and evaluation mode; biases are drawn too, for they start at 0."""
    config = registry.load(name)
    config.update({"max_len": MAX_LEN} | getattr(facts(name), "SETTINGS", {}) | settings)
    embed_dim = config.pop("embed_dim", EMBED_DIM)
    num_heads = config.pop("num_heads", NUM_HEADS)
    attention = registry.factory(config)(embed_dim, num_heads, pattern)
    for parameter_name, parameter in attention.named_parameters():
        if parameter_name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return attention.double().eval()


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def inputs(
    pattern: Pattern, length: int, *, batch_size: int = 2, seed: int = 1, scale: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """A query of `length`, and in the cross patterns a context a little longer than half of it."""
    query = scale * draw(seed, batch_size, length, EMBED_DIM)
    if not pattern.is_cross:
        return query, None
    return query, scale * draw(seed + 1, batch_size, length // 2 + 3, EMBED_DIM)


def holes(seed: int, batch_size: int, length: int) -> Tensor:
    """A padding mask: the first row has none, the last is all padding, between them holes."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch_size, length, generator=generator) < 0.3
    mask[0], mask[-1] = False, True
    return mask


def outputs_and_gradients(
    attention: Attention, query: Tensor, context: Tensor | None = None, **masks: Tensor
) -> dict[str, Tensor]:
    """What two back ends or devices are compared by: the output, and the gradients by name."""
    given = {"query": query, "context": context}
    leaves = {name: x.detach().requires_grad_() for name, x in given.items() if x is not None}
    output = attention(**leaves, **masks)
    leaves |= dict(attention.named_parameters())
    upstream = draw(4, *output.shape).to(output)
    gradients = torch.autograd.grad(output, list(leaves.values()), upstream, materialize_grads=True)
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}
