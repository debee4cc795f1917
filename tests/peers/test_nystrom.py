"""Nyström attention beside transformers' Nystromformer and beside nystrom-attention."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.lowrank.nystrom import NystromAttention
from tests.attentions.claims import build, draw
from tests.peers import copy, peer

pytestmark = pytest.mark.slow  # the import of transformers alone takes ten seconds

LENGTH, NUM_LANDMARKS, CONV_KERNEL = 24, 6, 5


def ours(*, num_heads: int = 2, num_iterations: int = 6) -> NystromAttention:
    attention = build(
        "nystrom",
        Pattern.NONCAUSAL_SELF,
        num_heads=num_heads,
        num_landmarks=NUM_LANDMARKS,
        num_iterations=num_iterations,
        conv_kernel=CONV_KERNEL,
    )
    assert isinstance(attention, NystromAttention)
    return attention


class Transformers(nn.Module):
    """The one of transformers, whose six iterations cannot be changed."""

    def __init__(self, attention: NystromAttention, *, init_option: str) -> None:
        super().__init__()
        module = peer("transformers.models.nystromformer.modeling_nystromformer")
        config = module.NystromformerConfig(
            hidden_size=16,
            num_attention_heads=attention.num_heads,
            num_landmarks=NUM_LANDMARKS,
            segment_means_seq_len=LENGTH,
            conv_kernel_size=CONV_KERNEL,
        )
        self.inner = module.NystromformerSelfAttention(config).double().eval()
        # Its constructor fails when the configuration asks for the exact coefficient.
        self.inner.init_option = init_option
        for name, proj in (("query", "q"), ("key", "k"), ("value", "v")):
            copy(getattr(attention, f"{proj}_proj"), to=getattr(self.inner, name))
        assert attention.conv is not None
        self.inner.conv.load_state_dict(attention.conv.state_dict())
        self.out_proj = attention.out_proj

    def forward(self, query: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.out_proj(self.inner(query, attention_mask)[0])


def lucidrains(attention: NystromAttention) -> Any:
    module = peer("nystrom_attention")
    theirs = module.NystromAttention(
        16,
        dim_head=attention.head_dim,
        heads=attention.num_heads,
        num_landmarks=NUM_LANDMARKS,
        pinv_iterations=attention.num_iterations,
        residual_conv_kernel=CONV_KERNEL,
    )
    theirs = theirs.double().eval()
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    with torch.no_grad():
        theirs.to_qkv.weight.copy_(torch.cat([proj.weight for proj in projections]))
        for proj in projections:
            proj.bias.zero_()
    copy(attention.out_proj, to=theirs.to_out[0])
    assert attention.conv is not None
    theirs.res_conv.load_state_dict(attention.conv.state_dict())
    return theirs


def test_equals_transformers_with_its_exact_coefficient() -> None:
    attention = ours()
    theirs = Transformers(attention, init_option="exact")
    query = draw(0, 3, LENGTH, 16)
    torch.testing.assert_close(attention(query), theirs(query))


def test_default_coefficient_of_transformers_is_taken_over_the_batch() -> None:
    # For one matrix it is the same; of several, each then depends on the others.
    alone = ours(num_heads=1)
    query = draw(0, 1, LENGTH, 16)
    theirs = Transformers(alone, init_option="original")
    torch.testing.assert_close(alone(query), theirs(query))

    attention = ours()
    theirs = Transformers(attention, init_option="original")
    both = torch.cat([query, 9.0 * draw(1, 1, LENGTH, 16)])
    assert (theirs(both)[:1] - theirs(query)).abs().amax() > 1e-4
    torch.testing.assert_close(attention(both)[:1], attention(query))


def test_masked_positions_reach_the_landmarks_of_transformers() -> None:
    attention = ours()
    theirs = Transformers(attention, init_option="exact")
    padding = torch.arange(LENGTH)[None] >= LENGTH - 7
    additive = torch.zeros(1, 1, 1, LENGTH, dtype=torch.float64)
    additive = additive.masked_fill(padding[:, None, None], -torch.inf)
    query = draw(0, 1, LENGTH, 16)
    other = query + 9.0 * draw(1, 1, LENGTH, 16) * padding[..., None]
    moved = theirs(other, additive) - theirs(query, additive)
    assert moved[~padding].abs().amax() > 1e-2
    actual = attention(other, key_padding_mask=padding)[~padding]
    torch.testing.assert_close(actual, attention(query, key_padding_mask=padding)[~padding])


def test_equals_lucidrains_for_one_matrix() -> None:
    attention = ours(num_heads=1)
    theirs = lucidrains(attention)
    query = draw(0, 1, LENGTH, 16)
    torch.testing.assert_close(attention(query), theirs(query))


def test_equals_lucidrains_where_the_inverse_has_converged() -> None:
    # It takes its first guess over the whole batch: another way to the same limit.
    attention = ours(num_iterations=40)
    theirs = lucidrains(attention)
    query = draw(0, 3, LENGTH, 16)
    torch.testing.assert_close(attention(query), theirs(query), rtol=1e-9, atol=1e-9)


def test_lucidrains_fills_up_with_zeros_that_take_part() -> None:
    # A length that is no multiple of the landmarks: zeros in front, of which it makes a landmark
    # and keys. Ours has segments of two lengths instead.
    attention = ours(num_heads=1)
    theirs = lucidrains(attention)
    query = draw(0, 1, LENGTH - 5, 16)
    filled = torch.cat([torch.zeros(1, 5, 16, dtype=torch.float64), query], dim=1)
    torch.testing.assert_close(attention(filled)[:, 5:], theirs(query))
    assert (attention(query) - theirs(query)).abs().amax() > 1e-2


@pytest.mark.parametrize("padded_to", [LENGTH, 2 * LENGTH])
def test_landmarks_of_lucidrains_depend_on_the_padding(padded_to: int) -> None:
    attention = ours(num_heads=1)
    theirs = lucidrains(attention)
    query = draw(0, 1, LENGTH - 6, 16)
    padding = torch.arange(padded_to)[None] >= LENGTH - 6
    long = torch.cat([query, draw(1, 1, padded_to - LENGTH + 6, 16)], dim=1)
    torch.testing.assert_close(
        attention(long, key_padding_mask=padding)[~padding], attention(query)[0]
    )
    assert (theirs(long, mask=~padding)[~padding] - theirs(query)[0]).abs().amax() > 1e-2
