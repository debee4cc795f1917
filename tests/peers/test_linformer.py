"""Linformer beside the linformer package."""

from typing import Any

import pytest
import torch

from attentions.base import Pattern
from attentions.lowrank.linformer import LinformerAttention
from tests.attentions.claims import build, inputs
from tests.peers import copy, peer

linformer = peer("linformer")

MAX_LEN, PROJ_LEN = 24, 5


def ours(pattern: Pattern, *, share_key_value: bool) -> LinformerAttention:
    settings = {"max_len": MAX_LEN, "proj_len": PROJ_LEN, "share_key_value": share_key_value}
    attention = build("linformer", pattern, **settings)
    assert isinstance(attention, LinformerAttention)
    return attention


@torch.no_grad()
def theirs_like(attention: LinformerAttention) -> Any:
    share_kv = attention.value_proj_len is None
    theirs = linformer.LinformerSelfAttention(
        16, MAX_LEN, k=PROJ_LEN, heads=2, share_kv=share_kv
    ).double()
    copy(attention.q_proj, to=theirs.to_q)
    copy(attention.k_proj, to=theirs.to_k)
    copy(attention.out_proj, to=theirs.to_out)
    theirs.proj_k.copy_(attention.key_proj_len.T)
    if attention.value_proj_len is not None:
        copy(attention.v_proj, to=theirs.to_v)
        theirs.proj_v.copy_(attention.value_proj_len.T)
    return theirs


@pytest.mark.parametrize("pattern", sorted(LinformerAttention.patterns))
@pytest.mark.parametrize("length", [1, 7, MAX_LEN])
def test_equals_the_package(pattern: Pattern, length: int) -> None:
    attention = ours(pattern, share_key_value=False)
    query, context = inputs(pattern, length)
    expected = theirs_like(attention)(query, context)
    torch.testing.assert_close(attention(query, context), expected)


def test_sharing_in_the_package_shares_the_projection_to_keys_and_values_too() -> None:
    # The paper's key-value sharing is of E and F alone, as here.
    attention = ours(Pattern.NONCAUSAL_SELF, share_key_value=True)
    theirs = theirs_like(attention)
    query, _ = inputs(Pattern.NONCAUSAL_SELF, MAX_LEN)
    assert (attention(query) - theirs(query)).abs().amax() > 1e-2
    attention.v_proj.load_state_dict(attention.k_proj.state_dict())
    torch.testing.assert_close(attention(query), theirs(query))
