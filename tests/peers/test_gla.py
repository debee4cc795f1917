"""Gated linear attention beside fla's plain recurrence, which computes in float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.recurrent.gla import GatedLinearAttention
from tests.attentions.claims import build, draw
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes eight seconds


def test_gla_equals_fla() -> None:
    naive = peer("fla.ops.gla.naive").naive_recurrent_gla
    attention = build("gla", Pattern.CAUSAL_SELF).float()
    assert isinstance(attention, GatedLinearAttention)
    nn.init.normal_(attention.norm)
    x = draw(0, 2, 150, 16).float()

    def by_head(proj: nn.Module) -> Tensor:
        return proj(x).unflatten(-1, (2, -1))  # its layout is (batch, length, heads, width)

    # The layer of fla.layers.gla, which the installed package lacks, around its recurrence.
    q, gate = by_head(attention.q_proj).split([4, 8], dim=-1)
    k, v = by_head(attention.k_proj), by_head(attention.v_proj)
    mixed, _ = naive(q, k, v, F.logsigmoid(by_head(attention.decay_proj)) / 16)
    normed = F.rms_norm(mixed, (8,), attention.norm, eps=1e-5) * F.silu(gate)
    expected = attention.out_proj(normed.flatten(-2))
    # Sums of 150 terms in float32, in another order.
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)
