"""What does not fit its place, and what does though it looks odd."""

from typing import Any

from torch import Tensor, nn

from attentions.base import Pattern, UnsupportedPattern
from attentions.linear.linear_elu import LinearAttention


class Overwrites(LinearAttention):
    """Clears the padding of its argument, in place."""

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        **rest: Any,
    ) -> Tensor:
        if query_padding_mask is not None:
            query.data.masked_fill_(query_padding_mask[..., None], 0.0)
        return super().attend(query, context, **rest)


class SwallowsSettings(LinearAttention):
    def __init__(
        self, embed_dim: int, num_heads: int, pattern: Pattern, *, eps: float = 1e-6, **rest: Any
    ) -> None:
        common = {name: rest[name] for name in ("dropout", "max_len", "grid") if name in rest}
        super().__init__(embed_dim, num_heads, pattern, eps=eps, **common)


class ClaimsWhatItRefuses(LinearAttention):
    """Its class claims what its constructor refuses: no flaw, where the settings decide."""

    def __init__(self, embed_dim: int, num_heads: int, pattern: Pattern, **common: Any) -> None:
        if pattern.is_cross:
            reason = "its part is not made for two sequences"
            raise UnsupportedPattern("ClaimsWhatItRefuses", pattern, self.patterns, reason)
        super().__init__(embed_dim, num_heads, pattern, **common)


class RefusesWhenCalled(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        raise UnsupportedPattern("RefusesWhenCalled", self.pattern, self.patterns)


class ServesUnclaimed(LinearAttention):
    """Claims one pattern, builds in all."""

    patterns = frozenset({Pattern.NONCAUSAL_SELF})

    def __init__(self, *args: Any, **common: Any) -> None:
        object.__setattr__(self, "patterns", frozenset(Pattern))
        super().__init__(*args, **common)


class Raises(LinearAttention):
    """An exception where the sequence is longer than its block."""

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        if query.shape[1] > 100:
            raise IndexError("block 7 of 6")
        return super().attend(query, context, **masks)


class WrongShape(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks)[:, :-1]


class Bloated(LinearAttention):
    def __init__(self, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self.extra = nn.Linear(self.embed_dim, 4 * self.embed_dim)

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        return super().attend(query, context, **masks) + self.extra(query).mean(-1, keepdim=True)


class OverwritesQuery(LinearAttention):
    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        out = super().attend(query, context, **masks)
        query.data.mul_(2.0)
        return out
