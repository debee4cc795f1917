"""Relative attention beside XLNet's, the Transformer-XL attention that transformers still has."""

import pytest
import torch
from torch import Tensor

from attentions.base import Pattern
from attentions.softmax.rel_mha import RelativeAttention
from tests.attentions.claims import build, draw, holes
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes ten seconds


@pytest.mark.parametrize("pattern", sorted(RelativeAttention.patterns))
@pytest.mark.parametrize("padded", [False, True])
def test_equals_xlnet(pattern: Pattern, padded: bool) -> None:
    xlnet = peer("transformers.models.xlnet.modeling_xlnet")
    attention = build("rel_mha", pattern)
    assert isinstance(attention, RelativeAttention)
    is_causal = pattern is Pattern.CAUSAL_SELF
    model = xlnet.XLNetModel(
        xlnet.XLNetConfig(
            vocab_size=4,
            d_model=16,
            n_head=2,
            n_layer=1,
            d_inner=4,
            dropout=0.0,
            attn_type="uni" if is_causal else "bi",
        )
    )
    theirs = model.layer[0].rel_attn.double().eval()
    with torch.no_grad():
        theirs.r_w_bias.copy_(attention.content_bias[:, 0])
        theirs.r_r_bias.copy_(attention.distance_bias[:, 0])
        theirs.r.copy_(attention.distance_proj.weight.T.unflatten(-1, (2, 8)))

    padding = holes(1, 3, 11) & padded
    padding[:, 0] = False  # a query without any key has equal weights there and is zero here
    hidden = padding[:, None].expand(-1, 11, -1)  # (B, M, N)
    if is_causal:
        hidden = hidden | torch.ones(11, 11, dtype=torch.bool).triu(1)
    q, k, v = (draw(seed, 3, 2, 11, 8) for seed in range(3))
    distances = model.relative_positional_encoding(11, 11).double()  # (distances, 1, E)
    expected = theirs.rel_attn_core(
        *(length_first(x) for x in (q, k, v)),
        torch.einsum("ibh,hnd->ibnd", distances, theirs.r),
        attn_mask=hidden.permute(1, 2, 0)[..., None].double(),
    )
    actual = length_first(attention.mix(q, k, v, key_padding_mask=padding))
    # Its sinusoids are in float32.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def length_first(x: Tensor) -> Tensor:
    """(B, H, L, D) to (L, B, H, D)."""
    return x.permute(2, 0, 1, 3)
