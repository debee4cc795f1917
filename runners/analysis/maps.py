"""Attention maps of any mechanism whose outputs are sums of its values.

What a mechanism computes of queries, keys and values is often linear in the values once queries
and keys are given: out = W v for each head, W being its attention map, whether it is formed (as in
softmax attention) or not (as in linear attention, or in a delta rule). So W is read off by the same
code applied to one-hot values, a head's width of positions at a time. Whether it is a map at all is
tried: W must give the mechanism's own outputs, of its values and of random ones.

A mechanism whose `mix` is not linear in v for a norm or a gate behind a scan has the map of that
scan, of what is written into the memory and read from it.

Shapes: B batch, H heads, M query length, N key length, D head_dim.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attentions.base import Attention, MultiHeadAttention

SCANS = ("causal_scan", "gated_scan", "decayed_attention", "delta_rule")
"""The functions of `attentions.functional` that take q, k, v and are linear in v."""
TOLERANCE = 1e-3
"""What the outputs of a map may miss, of the greatest output: some float32 sums of large terms."""


class NoMap(ValueError):
    """The mechanism has no attention map that could be read; the message says why."""


@dataclass(frozen=True)
class Call:
    """Values that were mixed.

    Attributes:
        name: Of what mixed them, `mix` or one of `SCANS`.
        apply: The same with other values: (B, heads, N, D) to (B, heads, M, D).
        values: (B, heads, N, D).
        output: (B, heads, M, D).
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    values: Tensor
    output: Tensor


@dataclass
class Pass:
    """What one place did in one forward pass.

    Attributes:
        calls: In order; of the first time that the place was used, if several.
        num_uses: How often it was.
        query_padding_mask: Bool (B, M), True for padding, or None.
        shape: B, M and N.
    """

    calls: list[Call] = field(default_factory=list)
    num_uses: int = 0
    query_padding_mask: Tensor | None = None
    shape: tuple[int, int, int] = (0, 0, 0)


@contextmanager
def recorded(places: Iterable[Attention]) -> Iterator[list[Pass]]:
    """Record what is mixed at each of these places meanwhile."""
    passes = []
    with ExitStack() as stack:
        for place in places:
            passes.append(Pass())
            # A hybrid asks the mechanism of its layer.
            part = [module for module in place.modules() if isinstance(module, Attention)][-1]
            stack.enter_context(_replaced(part, "attend", _spy(part, passes[-1])))
        yield passes


def attention_map(found: Pass) -> tuple[Tensor, str]:
    """The weights (B, H, M, N) of a place, and the name of what they are the weights of.

    Raises:
        NoMap: If the outputs are no sums of one value for each position and head.
    """
    if not found.calls:
        raise NoMap("it mixes by neither q, k and v nor a scan of them")
    own = [call for call in found.calls if call.name == "mix"]
    scans = [call for call in found.calls if call.name != "mix"]
    for call in own + (scans if len(scans) == 1 else []):
        weights = _weights(call)
        if weights is not None and (weights.shape[0], *weights.shape[2:]) == found.shape:
            return weights, call.name
    if len(scans) > 1 or any(len(call.values) != found.shape[0] for call in scans):
        raise NoMap("it scans in two directions, each with a map of its own")
    raise NoMap("its outputs are not linear in its values, as those of a map would be")


def _weights(call: Call) -> Tensor | None:
    """The map of a call; None if it is none."""
    num_values, heads = call.values.shape[1], call.output.shape[1]
    width = call.values.shape[3]
    if heads % num_values or call.output.shape[3] != width:
        return None
    columns = []
    for start in range(0, call.values.shape[2], width):
        size = min(width, call.values.shape[2] - start)
        basis = torch.zeros_like(call.values)
        place = torch.arange(size, device=basis.device)
        basis[:, :, start + place, place] = 1.0
        columns.append(call.apply(basis)[..., :size])
    weights = torch.cat(columns, dim=-1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(call.values.shape, generator=generator).to(call.values)
    for values, output in ((call.values, call.output), (noise, call.apply(noise))):
        expected = weights @ values.repeat_interleave(heads // num_values, dim=1)
        if not bool((expected - output).abs().amax() <= TOLERANCE * output.abs().amax()):
            return None
    return weights


def _spy(part: Attention, found: Pass) -> Callable[..., Tensor]:
    """`attend`, recording."""
    attend = part.attend

    def spying(query: Tensor, context: Tensor, **masks: Tensor | None) -> Tensor:
        found.num_uses += 1
        if found.num_uses > 1:
            return attend(query, context, **masks)
        found.query_padding_mask = masks.get("query_padding_mask")
        found.shape = query.shape[0], query.shape[1], context.shape[1]
        with ExitStack() as stack:
            for owner, name in _mixers(part):
                call = _recording(name, getattr(owner, name), found.calls)
                stack.enter_context(_replaced(owner, name, call))
            return attend(query, context, **masks)

    return spying


def _mixers(part: Attention) -> list[tuple[Any, str]]:
    """Where a mechanism finds what mixes its values: (owner, name)."""
    own: list[tuple[Any, str]] = [(part, "mix")] if isinstance(part, MultiHeadAttention) else []
    modules = {sys.modules[cls.__module__] for cls in type(part).__mro__}
    return own + [(module, name) for module in modules for name in SCANS if hasattr(module, name)]


def _recording(name: str, function: Callable[..., Any], calls: list[Call]) -> Callable[..., Any]:
    def call(q: Tensor, k: Tensor, v: Tensor, *more: Any, **settings: Any) -> Any:
        output = function(q, k, v, *more, **settings)
        calls.append(
            Call(name, lambda x: _first(function(q, k, x, *more, **settings)), v, _first(output))
        )
        return output

    return call


def _first(output: Any) -> Tensor:
    """Of a scan that returns its last state too, the outputs."""
    return output if isinstance(output, Tensor) else output[0]


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute meanwhile: of a module of torch on the instance, over its class's."""
    kept: Mapping[str, Any] = {} if isinstance(owner, nn.Module) else {name: getattr(owner, name)}
    setattr(owner, name, value)
    try:
        yield
    finally:
        if kept:
            setattr(owner, name, kept[name])
        else:
            delattr(owner, name)
