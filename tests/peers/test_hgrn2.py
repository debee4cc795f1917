"""HGRN2 beside fla's plain recurrence of gated linear attention, which computes in float32."""

import pytest
import torch
import torch.nn.functional as F

from attentions.base import Pattern
from attentions.recurrent.hgrn2 import Hgrn2Attention
from tests.attentions.claims import build, draw
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes eight seconds


@pytest.mark.parametrize("bound", [0.0, 0.3])
def test_hgrn2_equals_fla(bound: float) -> None:
    naive = peer("fla.ops.gla.naive").naive_recurrent_gla
    attention = build("hgrn2", Pattern.CAUSAL_SELF, lower_bound=bound, eps=1e-5 * 8).float()
    assert isinstance(attention, Hgrn2Attention)
    x = draw(0, 2, 150, 16).float()
    # The layer of fla.layers.hgrn2, which the installed package lacks, around its recurrence.
    lower = torch.tensor(bound)
    log_g = torch.logaddexp(lower.log(), torch.log1p(-lower) + F.logsigmoid(attention.k_proj(x)))
    rows = (F.silu(attention.q_proj(x)), 1 - log_g.exp(), attention.v_proj(x), log_g)
    mixed, _ = naive(*(row.unflatten(-1, (2, -1)) for row in rows))
    # It divides by sqrt 8, which the norm undoes, but for its eps: ours is 8 times as large here.
    expected = attention.out_proj(F.rms_norm(mixed.flatten(-2), (16,), eps=1e-5))
    # Sums of 150 terms in float32, in another order.
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)
