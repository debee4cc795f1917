"""Softmax and grouped-query attention beside the eager attention of transformers' Llama.

Beside torch's own module: tests/attentions/test_softmax.py.
"""

import pytest
import torch

from attentions.base import Pattern
from attentions.softmax.softmax import SoftmaxAttention
from tests.attentions.claims import build, draw, holes
from tests.peers import copy, peer

pytestmark = pytest.mark.slow  # the import alone takes ten seconds


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_llama_without_its_rotation(num_kv_heads: int, padded: bool) -> None:
    llama = peer("transformers.models.llama.modeling_llama")
    attention = build("softmax", Pattern.CAUSAL_SELF, num_heads=4, num_kv_heads=num_kv_heads)
    assert isinstance(attention, SoftmaxAttention)
    config = llama.LlamaConfig(
        hidden_size=16,
        num_attention_heads=4,
        num_key_value_heads=num_kv_heads,
        attention_bias=True,
        attn_implementation="eager",
    )
    theirs = llama.LlamaAttention(config, layer_idx=0).double().eval()
    for name in ("q_proj", "k_proj", "v_proj"):
        copy(getattr(attention, name), to=getattr(theirs, name))
    copy(attention.out_proj, to=theirs.o_proj)

    query = draw(0, 3, 9, 16)
    padding = holes(1, 3, 9) & padded
    padding[:, 0] = False  # a query without any key is NaN there and zero here
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1) | padding[:, None, None]
    mask = torch.zeros(3, 1, 9, 9, dtype=torch.float64).masked_fill(hidden, -torch.inf)
    straight = torch.ones(1, 9, 4, dtype=torch.float64), torch.zeros(1, 9, 4, dtype=torch.float64)
    expected, _ = theirs(query, position_embeddings=straight, attention_mask=mask)
    # It rounds its weights to float32 whatever the inputs.
    torch.testing.assert_close(
        attention(query, key_padding_mask=padding), expected, rtol=1e-6, atol=1e-6
    )
