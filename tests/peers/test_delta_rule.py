"""DeltaNet beside flash-linear-attention's delta rule in plain PyTorch, given the same weights."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Pattern
from tests.attentions.claims import build, draw
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes eight seconds

LENGTH = 96  # of fla's chunks of 32, which must fit; more than one of ours


@pytest.mark.parametrize("form", ["delta_rule_recurrence", "delta_rule_chunkwise"])
def test_deltanet_equals_the_layer_around_flas_delta_rule(form: str) -> None:
    delta_rule = getattr(peer("fla.ops.delta_rule.naive"), form)
    attention: Any = build("deltanet", Pattern.CAUSAL_SELF).float()
    x = draw(0, 2, LENGTH, 16).float()

    def features(name: str) -> Tensor:
        proj, weight = getattr(attention, f"{name}_proj"), getattr(attention, f"{name}_conv")
        convolved = F.conv1d(proj(x).mT, weight[:, None], padding=3, groups=16)[..., :LENGTH]
        return F.silu(convolved).unflatten(1, (2, 8)).mT

    q, k = (F.normalize(features(name), dim=-1) for name in "qk")
    beta = attention.beta_proj(x).sigmoid().mT
    expected, _ = delta_rule(q, k, features("v"), beta)
    expected = F.rms_norm(expected, (8,), attention.norm, attention.eps)
    expected = attention.out_proj(expected.transpose(1, 2).flatten(-2))
    # Float32, and 1e-6 beside the squared norm of q and k, which is of the order of 0.1.
    torch.testing.assert_close(attention(x), expected, rtol=1e-3, atol=1e-4)
