"""Longformer beside the one of transformers, with the same weights."""

import pytest
import torch

from attentions.base import Pattern
from tests.attentions.claims import build, draw
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes ten seconds


@pytest.mark.parametrize("num_global", [0, 1, 5])
def test_equals_transformers(num_global: int) -> None:
    length, real = 24, 21  # transformers wants a multiple of the window
    ours = build("longformer", Pattern.NONCAUSAL_SELF, window=8, num_global=num_global)
    torch.nn.init.eye_(ours.get_parameter("out_proj.weight"))
    torch.nn.init.zeros_(ours.get_parameter("out_proj.bias"))
    module = peer("transformers.models.longformer.modeling_longformer")
    config = module.LongformerConfig(
        hidden_size=16, num_attention_heads=2, attention_window=[8], attention_probs_dropout_prob=0
    )
    theirs = module.LongformerSelfAttention(config, layer_id=0).double().eval()
    for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
        proj = ours.get_submodule(f"{short}_proj")
        for kind in ("weight", "bias"):
            both = proj.get_parameter(kind).detach()
            getattr(theirs, name).get_parameter(kind).data = both[:16]
            getattr(theirs, f"{name}_global").get_parameter(kind).data = both[-16:]

    query = draw(0, 2, length, 16)
    padding = (torch.arange(length) >= real).expand(2, -1)
    is_global = (torch.arange(length) < num_global).expand(2, -1)
    expected = theirs(
        query,
        attention_mask=10000.0 * is_global.double() - 10000.0 * padding.double(),
        is_index_masked=padding,
        is_index_global_attn=is_global,
        is_global_attn=num_global > 0,
    )[0]
    actual = ours(query, query_padding_mask=padding)
    # transformers computes the softmax in float32.
    torch.testing.assert_close(actual[:, :real], expected[:, :real], rtol=1e-5, atol=1e-6)
