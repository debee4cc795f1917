"""DiffQKV attention where it is softmax or grouped-query attention, and how small its state is."""

import pytest
import torch

from attentions.base import Pattern
from attentions.softmax.diffqkv import AugmentedQuery, DiffQKVAttention
from attentions.softmax.softmax import SoftmaxAttention
from tests.attentions.claims import build, draw, inputs


@pytest.mark.parametrize("pattern", list(Pattern))
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_with_equal_heads_and_plain_queries_it_is_grouped_query_attention(
    pattern: Pattern, num_kv_heads: int
) -> None:
    attention = build(
        "diffqkv",
        pattern,
        num_key_heads=num_kv_heads,
        num_value_heads=num_kv_heads,
        query_expansion=None,
    )
    grouped = build("gqa", pattern, num_heads=4, num_kv_heads=num_kv_heads)
    grouped.load_state_dict(attention.state_dict())
    query, context = inputs(pattern, 9)
    torch.testing.assert_close(attention(query, context), grouped(query, context))


def test_more_key_heads_than_value_heads_and_none_dividing_the_other() -> None:
    # 6 query heads read 3 key heads in pairs and 2 value heads in threes.
    attention = build("diffqkv", Pattern.CAUSAL_SELF, embed_dim=24, num_heads=6, num_key_heads=3)
    softmax = build("softmax", Pattern.CAUSAL_SELF, embed_dim=24, num_heads=6)
    assert isinstance(attention, DiffQKVAttention)
    assert isinstance(softmax, SoftmaxAttention)
    q, k, v = (draw(heads, 2, heads, 9, 4) for heads in (6, 3, 2))
    expected = softmax.mix(q, k[:, [0, 0, 1, 1, 2, 2]], v[:, [0, 0, 0, 1, 1, 1]])
    torch.testing.assert_close(attention.mix(q, k, v), expected)


def test_the_state_has_fewer_keys_than_values() -> None:
    attention = build("diffqkv", Pattern.CAUSAL_SELF)
    _, state = attention.prefill(draw(0, 3, 50, 16), attention.init_state(3))
    assert state.num_bytes == 3 * 50 * (1 + 2) * 4 * 8  # batch, length, heads, head_dim, float64


def test_sigma_keeps_less_than_grouped_queries_by_the_papers_37_5_percent() -> None:
    def size(num_key_heads: int) -> int:
        attention = build(
            "diffqkv",
            Pattern.CAUSAL_SELF,
            embed_dim=64,
            num_heads=32,
            num_key_heads=num_key_heads,
            num_value_heads=None,
        )
        return attention.prefill(draw(0, 1, 3, 64), attention.init_state(1))[1].num_bytes

    assert size(4) / size(16) == 1 - 0.375


@pytest.mark.parametrize("autocast", [False, True])
def test_augmented_queries_stay_finite_and_exact_in_float16(autocast: bool) -> None:
    torch.manual_seed(0)
    augmented = AugmentedQuery(16, 24)
    x = 1e3 * draw(0, 2, 5, 16).float()
    with torch.no_grad():
        expected = augmented(x)
        if autocast:
            with torch.autocast("cpu", dtype=torch.float16):
                actual = augmented(x)
        else:
            actual = augmented.half()(x.half())
    assert actual.dtype == torch.float16
    largest = torch.finfo(torch.float16).max
    assert expected.abs().amax() > largest  # else this would test nothing
    # Three products in a row, each rounded to 11 bits.
    tolerance = 0.01 * expected.abs().amax().item()
    torch.testing.assert_close(
        actual.float(), expected.clamp(-largest, largest), rtol=0.0, atol=tolerance
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_key_heads": 0}, "num_key_heads must divide num_heads = 4, got 0"),
        ({"num_key_heads": 3}, "num_key_heads must divide num_heads = 4, got 3"),
        ({"num_value_heads": 3}, "num_value_heads must divide num_heads = 4, got 3"),
        ({"query_expansion": 0.0}, "query_expansion must be positive or null, got 0.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("diffqkv", Pattern.CAUSAL_SELF, **settings)
