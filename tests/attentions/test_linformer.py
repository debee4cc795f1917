"""Linformer where it is exact, its sharing and its limit of length."""

import pytest
import torch

from attentions.base import Pattern, UnsupportedPattern
from attentions.lowrank.linformer import LinformerAttention
from tests.attentions.claims import build, draw, inputs
from tests.oracles import linformer

CLAIMED = sorted(LinformerAttention.patterns)


@pytest.mark.parametrize("pattern", CLAIMED)
@pytest.mark.parametrize("share", [False, True])
def test_with_identity_projections_it_is_softmax_attention(pattern: Pattern, share: bool) -> None:
    query, context = inputs(pattern, 20)
    length = 20 if context is None else context.shape[1]
    attention = build("linformer", pattern, proj_len=length, max_len=length, share_key_value=share)
    softmax = build("softmax", pattern)
    softmax.load_state_dict(attention.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            if name.endswith("proj_len"):
                parameter.copy_(torch.eye(length))
    torch.testing.assert_close(attention(query, context), softmax(query, context))


@pytest.mark.parametrize("pattern", CLAIMED)
def test_shared_projection_matches_the_oracle(pattern: Pattern) -> None:
    attention = build("linformer", pattern, share_key_value=True)
    query, context = inputs(pattern, 20)
    keys = query if context is None else context
    masks = [torch.zeros(x.shape[:2], dtype=torch.bool) for x in (query, keys)]
    expected = linformer.oracle(attention, query, keys, *masks)
    torch.testing.assert_close(attention(query, context), expected)


def test_sharing_halves_the_added_parameters() -> None:
    def count(share: bool) -> int:
        attention = build("linformer", Pattern.NONCAUSAL_SELF, share_key_value=share)
        return sum(parameter.numel() for parameter in attention.parameters())

    assert count(share=False) - count(share=True) == 5 * 512  # proj_len, max_len of the tests


def test_a_state_holds_the_projected_context() -> None:
    attention = build("linformer", Pattern.CAUSAL_CROSS, proj_len=6)
    state = attention.init_state(3, draw(0, 3, 50, 16))
    assert state.num_bytes == 3 * 2 * 6 * 16 * 8  # batch, k and v, proj_len, embed_dim, float64


@pytest.mark.parametrize("pattern", CLAIMED)
def test_max_len_is_needed(pattern: Pattern) -> None:
    with pytest.raises(ValueError, match="needs max_len, the columns of its projections, got None"):
        build("linformer", pattern, max_len=None)


def test_longer_inputs_than_max_len_are_refused() -> None:
    itself = build("linformer", Pattern.NONCAUSAL_SELF, max_len=4)
    with pytest.raises(ValueError, match="a sequence of length 5 is longer than max_len = 4"):
        itself(draw(0, 2, 5, 16))
    cross = build("linformer", Pattern.CAUSAL_CROSS, max_len=4)
    with pytest.raises(ValueError, match="a context of length 5 is longer than max_len = 4"):
        cross(draw(0, 2, 3, 16), draw(1, 2, 5, 16))
    with pytest.raises(ValueError, match="a context of length 5 is longer than max_len = 4"):
        cross.init_state(2, draw(1, 2, 5, 16))
    assert cross(draw(0, 2, 9, 16), draw(1, 2, 4, 16)).shape == (2, 9, 16)  # queries may be longer


def test_causal_self_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedPattern, match="each projected key mixes all positions"):
        build("linformer", Pattern.CAUSAL_SELF)


@pytest.mark.parametrize("proj_len", [0, -3])
def test_proj_len_must_be_positive(proj_len: int) -> None:
    with pytest.raises(ValueError, match=f"proj_len must be positive, got {proj_len}"):
        build("linformer", Pattern.NONCAUSAL_SELF, proj_len=proj_len)
