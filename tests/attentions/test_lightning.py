"""Lightning attention where its decay vanishes, its decays, and what its state holds."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Pattern
from attentions.linear.lightning import LightningAttention
from tests.attentions.claims import build, draw, holes, inputs
from tests.oracles.lightning import oracle


def lightning(pattern: Pattern, **settings: Any) -> LightningAttention:
    attention = build("lightning", pattern, **settings)
    assert isinstance(attention, LightningAttention)
    return attention


def decays(num_heads: int, **settings: Any) -> Tensor:
    """What is left of a position at the next one, in each head."""
    # Constant queries and keys, and values that tell the first position from the second.
    attention = lightning(
        Pattern.CAUSAL_SELF, embed_dim=4 * num_heads, num_heads=num_heads, **settings
    )
    ones = torch.ones(1, num_heads, 3, 4, dtype=torch.float64)
    v = torch.zeros_like(ones)
    v[:, :, 0, 0] = v[:, :, 1, 1] = 1.0
    out = attention.mix(torch.cat([ones, ones], dim=1), ones, v)[0, :, 2]
    return out[:, 0] / out[:, 1]  # the norm cancels


def test_a_head_without_decay_is_linear_attention() -> None:
    # The paper's first head. The norm is over the heads together, so the other is kept out.
    q, gate, k, v = (draw(seed, 2, 1, 150, 16) for seed in range(4))
    for pattern in Pattern:
        scores = F.silu(q) @ F.silu(k).mT
        if pattern is Pattern.CAUSAL_SELF:
            scores = scores.tril()
        normed = F.rms_norm(scores @ v, (16,), eps=1e-6)
        attention = lightning(pattern, num_heads=1, decay="paper")
        torch.testing.assert_close(attention.mix(torch.cat([q, gate], dim=1), k, v), normed * gate)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        # Two heads, one layer: 2^-4 and 2^-8, each by 1 + 1e-5.
        ({}, [1.00001 / 16, 1.00001 / 256]),
        # The middle of three layers decays half as fast, the last hardly at all.
        ({"layer": 1, "num_layers": 3}, [0.50001 / 16, 0.50001 / 256]),
        ({"layer": 2, "num_layers": 3}, [1e-5 / 16, 1e-5 / 256]),
        ({"layer": 0, "num_layers": 1}, [1.00001 / 16, 1.00001 / 256]),
        # The authors' table of three heads: the two of two heads, and the first of four.
        ({"num_heads": 3}, [1.00001 / 16, 1.00001 / 256, 1.00001 / 4]),
        ({"decay": "paper"}, [0.0, 4.0]),
        ({"decay": "paper", "layer": 1, "num_layers": 4}, [0.0, 3.0]),
    ],
)
def test_each_head_and_layer_decays_at_its_rate(
    settings: dict[str, Any], rates: list[float]
) -> None:
    expected = (-torch.tensor(rates, dtype=torch.float64)).exp()
    actual = decays(**({"num_heads": 2} | settings))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)


def test_an_unknown_decay_is_refused() -> None:
    with pytest.raises(ValueError, match="decay must be 'code' or 'paper', got 'alibi'"):
        lightning(Pattern.CAUSAL_SELF, decay="alibi")


def test_blocks_do_not_lose_what_decays_beyond_the_range_of_exp() -> None:
    # exp(-4 * 64) is zero in float32: over a chunk only differences of exponents are usable.
    attention = lightning(Pattern.CAUSAL_SELF, decay="paper")
    q, gate, k, v = (draw(seed, 1, 2, 200, 8) for seed in range(4))
    expected = attention.mix(torch.cat([q, gate], dim=1), k, v)
    q, gate, k, v = (x.float() for x in (q, gate, k, v))
    actual = attention.mix(torch.cat([q, gate], dim=1), k, v)
    # Sums of up to 200 terms, each rounded to 1e-7 of numbers of order one.
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_the_decays_of_the_paper_match_the_oracle(pattern: Pattern) -> None:
    attention = lightning(pattern, decay="paper")
    query, context = inputs(pattern, 70, batch_size=3)
    keys = query if context is None else context
    mask = holes(2, 3, keys.shape[1])
    counts = ~mask[..., None] if context is None else torch.tensor(1.0)
    actual = attention(query, context, key_padding_mask=mask)
    torch.testing.assert_close(actual * counts, oracle(attention, query, keys, mask, mask) * counts)


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_SELF])
def test_only_distances_count(pattern: Pattern) -> None:
    attention = lightning(pattern)
    query, front = draw(0, 2, 70, 16), draw(1, 2, 13, 16)
    mask = (torch.arange(83) < 13).expand(2, -1)
    shifted = attention(torch.cat([front, query], dim=1), key_padding_mask=mask)
    torch.testing.assert_close(shifted[:, 13:], attention(query))


def test_the_last_causal_query_answers_as_in_the_cross_pattern() -> None:
    causal, cross = lightning(Pattern.CAUSAL_SELF), lightning(Pattern.CAUSAL_CROSS)
    cross.load_state_dict(causal.state_dict())
    query = draw(0, 2, 70, 16)
    torch.testing.assert_close(cross(query[:, -1:], query), causal(query)[:, -1:])


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_state_is_one_matrix_per_head(pattern: Pattern) -> None:
    attention = lightning(pattern)
    state = attention.init_state(3, draw(0, 3, 50, 16) if pattern.is_cross else None)
    _, state = attention.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == 3 * 2 * 8 * 8 * 8  # batch, heads, D, D, bytes
