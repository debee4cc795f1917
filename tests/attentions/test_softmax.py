"""Softmax attention beside torch's own module, and grouped-query attention beside softmax."""

import pytest
import torch
from torch import Tensor, nn

from attentions.base import Attention, Pattern
from tests.attentions.claims import EMBED_DIM, NUM_HEADS, build, inputs


@pytest.mark.parametrize("pattern", list(Pattern))
def test_equals_torch_multihead_attention(pattern: Pattern) -> None:
    attention = build("softmax", pattern)
    peer = nn.MultiheadAttention(EMBED_DIM, NUM_HEADS, batch_first=True).double().eval()
    weights = attention.state_dict()
    peer.load_state_dict(
        {
            "in_proj_weight": torch.cat([weights[f"{x}_proj.weight"] for x in "qkv"]),
            "in_proj_bias": torch.cat([weights[f"{x}_proj.bias"] for x in "qkv"]),
            "out_proj.weight": weights["out_proj.weight"],
            "out_proj.bias": weights["out_proj.bias"],
        }
    )
    query, context = inputs(pattern, 9)
    keys = query if context is None else context
    padding = torch.zeros(keys.shape[:2], dtype=torch.bool)
    padding[1, -2:] = True
    later = None
    if pattern is Pattern.CAUSAL_SELF:
        later = nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64) != 0
    expected, _ = peer(query, keys, keys, key_padding_mask=padding, attn_mask=later)
    torch.testing.assert_close(attention(query, context, key_padding_mask=padding), expected)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_grouped_queries_are_softmax_with_shared_keys_and_values(pattern: Pattern) -> None:
    grouped, softmax = build("gqa", pattern), build("softmax", pattern)
    weights = grouped.state_dict()
    for name in ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias"):
        weights[name] = weights[name].repeat(NUM_HEADS, *[1] * (weights[name].dim() - 1))
    softmax.load_state_dict(weights)
    query, context = inputs(pattern, 9)
    torch.testing.assert_close(grouped(query, context), softmax(query, context))


def test_grouped_queries_keep_a_smaller_state() -> None:
    def size(attention: Attention, query: Tensor) -> int:
        return attention.prefill(query, attention.init_state(2))[1].num_bytes

    query, _ = inputs(Pattern.CAUSAL_SELF, 9)
    softmax, grouped = (build(name, Pattern.CAUSAL_SELF) for name in ("softmax", "gqa"))
    assert size(softmax, query) == NUM_HEADS * size(grouped, query)


@pytest.mark.parametrize("num_kv_heads", [0, 3])
def test_num_kv_heads_must_divide(num_kv_heads: int) -> None:
    with pytest.raises(ValueError, match=f"must divide num_heads = 2, got {num_kv_heads}"):
        build("gqa", Pattern.CAUSAL_SELF, num_kv_heads=num_kv_heads)
