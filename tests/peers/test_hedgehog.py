"""Hedgehog beside fla's feature map, which is another one."""

import pytest
import torch

from attentions.base import Pattern
from attentions.linear.hedgehog import HedgehogAttention
from tests.attentions.claims import build, draw
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes eight seconds


def test_fla_takes_one_softmax_over_both_signs() -> None:
    theirs = peer("fla.modules.feature_map").HedgehogFeatureMap(8).double()
    attention = build("hedgehog", Pattern.NONCAUSAL_SELF)
    assert isinstance(attention, HedgehogAttention)
    x = draw(0, 1, 2, 50, 8)
    ours, joint = attention._features(x, attention.q_map), theirs(x)
    # Each sign alone, scaled to sum to one, has the same features as ours of twice the logits.
    twice = attention._features(2 * x, attention.q_map)
    halves = [half / half.sum(dim=-1, keepdim=True) for half in joint.chunk(2, dim=-1)]
    torch.testing.assert_close(torch.cat(halves, dim=-1), twice)
    # But a sign whose logits are larger has nearly all the weight, and logits are doubled.
    assert (joint.sum(dim=-1) - 1.0).abs().amax() < 1e-9
    assert (ours.sum(dim=-1) - 2.0).abs().amax() < 1e-9
    assert joint[..., :8].sum(dim=-1).amax() > 0.9
