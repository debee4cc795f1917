"""Gated linear attention and HGRN2 beside fla's plain recurrence, which computes in float32."""

import pytest
import torch
import torch.nn.functional as F

from attentions.base import Pattern
from tests.attentions.claims import build, draw
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes eight seconds


def test_gla_equals_fla() -> None:
    naive = peer("fla.ops.gla.naive").naive_recurrent_gla
    attention = build("gla", Pattern.CAUSAL_SELF).float()
    with torch.no_grad():
        attention.norm.copy_(draw(9, 8))
    x = draw(0, 2, 150, 16).float()

    def by_head(projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (2, -1))  # its layout is (batch, length, heads, width)

    # The layer of fla.layers.gla, which is no part of the installed package, around its recurrence.
    q, gate = by_head(attention.q_proj(x)).split([4, 8], dim=-1)
    k, v = by_head(attention.k_proj(x)), by_head(attention.v_proj(x))
    log_decay = by_head(F.logsigmoid(attention.decay_proj(x)) / 16)
    mixed, _ = naive(q, k, v, log_decay)
    normed = F.rms_norm(mixed, (8,), attention.norm, eps=1e-5) * F.silu(gate)
    expected = attention.out_proj(normed.flatten(-2))
    # Sums of 150 terms in float32, in another order.
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)
