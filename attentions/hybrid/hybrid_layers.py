"""Layer hybrid: one mechanism in most layers of a backbone, another after every few of those.

Source: Wang et al., "A Systematic Analysis of Hybrid Linear Attention", 2025, arXiv:2507.06457:
stacks of linear attention in which full attention follows every few layers. Which two mechanisms
is free here.
"""

from typing import Any

from torch import Tensor

from attentions import registry
from attentions.base import Attention, Pattern, State, UnsupportedPattern


class HybridLayers(Attention):
    """At its layer, either of two mechanisms with the settings of their own YAMLs.

    A pattern that one of the two lacks is refused, with its reason, and so is a backbone of too few
    layers for one of `full`.

    Args:
        linear: The name of the mechanism of most layers.
        full: The name of the mechanism that follows every `ratio` layers of the other.
        ratio: Layers of `linear` to one of `full`; 0 for `full` alone, None for `linear` alone.
    """

    patterns = frozenset(Pattern)

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        linear: str,
        full: str,
        ratio: int | None,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if ratio is not None and ratio < 0:
            self._fail(f"ratio must not be negative, got {ratio}")
        if ratio is not None and self.num_layers is not None and self.num_layers <= ratio:
            self._fail(
                f"{self.num_layers} layers hold no {full} after every {ratio} of {linear}: ratio "
                f"must be below num_layers, or null for {linear} alone"
            )
        parts = [registry.load(name) for name in (linear, full)]
        classes = [registry.mechanism(part["_target_"]) for part in parts]
        if HybridLayers in classes:
            self._fail("its parts must be other mechanisms than itself")
        both = classes[0].patterns & classes[1].patterns
        for name, cls in zip((linear, full), classes, strict=True):
            if pattern not in cls.patterns:
                reason = f"{name}: {cls.refuses.get(pattern, '')}"
                raise UnsupportedPattern(
                    f"HybridLayers of {linear} and {full}", pattern, both, reason
                )
        is_full = ratio is not None and (self.layer + 1) % (ratio + 1) == 0
        self.part = registry.factory(parts[is_full])(embed_dim, num_heads, pattern, **common)
        self.trains_otherwise = self.part.trains_otherwise

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `Attention.attend`."""
        masks = {"query_padding_mask": query_padding_mask, "key_padding_mask": key_padding_mask}
        mixed = self.part.attend(query, context, **masks)
        self.auxiliary_loss = self.part.auxiliary_loss
        return mixed

    def init_state(
        self,
        batch_size: int,
        context: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> State:
        """See `Attention.init_state`."""
        return self.part.init_state(batch_size, context, key_padding_mask)

    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.step`."""
        return self.part.step(query, state)

    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.prefill`."""
        return self.part.prefill(query, state)

    def memory_elements(self, length: int) -> int:
        """Those of the mechanism of its layer."""
        return self.part.memory_elements(length)
