"""cosFormer's constant M: where it comes from, its limit, what exceeds it."""

from typing import Any

import pytest
import torch

from attentions.base import Pattern
from tests.attentions.claims import EMBED_DIM, build, draw, inputs

CAUSAL = [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS]


@pytest.mark.parametrize("pattern", CAUSAL)
def test_a_long_range_leaves_plain_relu_attention(pattern: Pattern) -> None:
    attention: Any = build("cosformer", pattern, max_len=10**7)  # all cosines are 1 to within 1e-9
    query, context = inputs(pattern, 50)
    keys = query if context is None else context
    with torch.no_grad():
        q, k, v = (
            proj(x).unflatten(-1, (2, 8)).transpose(1, 2)
            for proj, x in (
                (attention.q_proj, query),
                (attention.k_proj, keys),
                (attention.v_proj, keys),
            )
        )
        weights = q.relu() @ k.relu().mT
        if context is None:
            weights = weights.tril()
        mixed = weights @ v / weights.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        expected = attention.out_proj(mixed.transpose(1, 2).flatten(-2))
        torch.testing.assert_close(attention(query, context), expected)


@pytest.mark.parametrize("pattern", CAUSAL)
def test_causal_patterns_need_max_len(pattern: Pattern) -> None:
    with pytest.raises(ValueError, match=f"{pattern} needs max_len, the M of its cosine, got None"):
        build("cosformer", pattern, max_len=None)


def test_noncausal_patterns_take_any_length() -> None:
    attention = build("cosformer", Pattern.NONCAUSAL_SELF, max_len=4)
    other = build("cosformer", Pattern.NONCAUSAL_SELF, max_len=None)
    other.load_state_dict(attention.state_dict())
    query, _ = inputs(Pattern.NONCAUSAL_SELF, 9)
    torch.testing.assert_close(attention(query), other(query))


def test_longer_inputs_than_max_len_are_refused() -> None:
    causal_self = build("cosformer", Pattern.CAUSAL_SELF, max_len=4)
    with pytest.raises(ValueError, match="sequence of length 5 is longer than max_len = 4"):
        causal_self(draw(0, 1, 5, EMBED_DIM))
    _, state = causal_self.prefill(draw(0, 1, 4, EMBED_DIM), causal_self.init_state(1))
    with pytest.raises(ValueError, match="sequence of length 5 is longer than max_len = 4"):
        causal_self.step(draw(0, 1, 1, EMBED_DIM), state)
    causal_cross = build("cosformer", Pattern.CAUSAL_CROSS, max_len=4)
    with pytest.raises(ValueError, match="context of length 5 is longer than max_len = 4"):
        causal_cross(draw(0, 1, 4, EMBED_DIM), draw(0, 1, 5, EMBED_DIM))
    with pytest.raises(ValueError, match="query of length 5 is longer than max_len = 4"):
        causal_cross(draw(0, 1, 5, EMBED_DIM), draw(0, 1, 4, EMBED_DIM))
