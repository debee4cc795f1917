"""Mamba-2 beside the mixer of transformers, whose plain PyTorch scan is in float32."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.recurrent.mamba2 import Mamba2Attention
from tests.attentions.claims import build, draw
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes six seconds


@torch.no_grad()
def pair() -> tuple[Mamba2Attention, Any]:
    """Ours and theirs with the same weights, all of them drawn."""
    ours = build("mamba2", Pattern.CAUSAL_SELF, state_dim=5)
    assert isinstance(ours, Mamba2Attention)
    nn.init.normal_(ours.norm)
    nn.init.normal_(ours.skip)
    mamba2 = peer("transformers.models.mamba2.modeling_mamba2")
    sizes = {"hidden_size": 16, "num_heads": 2, "head_dim": 16, "state_size": 5, "n_groups": 1}
    config = mamba2.Mamba2Config(**sizes, chunk_size=64, num_hidden_layers=1)
    theirs = mamba2.Mamba2Mixer(config, layer_idx=0).double().eval()
    theirs.in_proj.weight.copy_(ours.in_proj.weight)
    theirs.conv1d.weight.copy_(ours.conv[:, None])
    theirs.conv1d.bias.copy_(ours.conv_bias)
    theirs.dt_bias.copy_(ours.dt_bias)
    theirs.A_log.copy_(ours.log_a)
    theirs.D.copy_(ours.skip)
    theirs.norm.weight.copy_(ours.norm)
    theirs.out_proj.weight.copy_(ours.out_proj.weight)
    return ours, theirs


def close(actual: Tensor, expected: Tensor) -> None:
    # Sums of 150 terms in float32, in another order.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_equals_transformers_with_padding_in_front_too() -> None:
    ours, theirs = pair()
    query = draw(0, 2, 150, 16)
    close(ours(query), theirs(query))
    padding = (torch.arange(150) < 7).expand(2, -1)
    actual = ours(query, key_padding_mask=padding)
    close(actual[:, 7:], theirs(query, attention_mask=~padding)[:, 7:])


def test_transformers_goes_on_forgetting_at_padding_between_others() -> None:
    # There the mask stops the writing alone. Ours passes over the position.
    ours, theirs = pair()
    for mixer, log_a in ((ours, ours.log_a), (theirs, theirs.A_log)):
        nn.init.zeros_(mixer.dt_bias)  # steps near 0.7
        nn.init.constant_(log_a, -1.0)  # and decays near exp(-0.26)
    query = draw(0, 2, 30, 16)
    padding = ((torch.arange(30) >= 10) & (torch.arange(30) < 20)).expand(2, -1)
    actual = ours(query, key_padding_mask=padding)
    expected = theirs(query, attention_mask=~padding)
    close(actual[:, :10], expected[:, :10])
    assert (actual - expected)[:, 20:].abs().amax() > 0.01
