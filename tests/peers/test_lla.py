"""Local linear attention beside fla's Parallax, its successor that learns what LLA solves for.

The authors' kernels (FlashLLA) need a GPU and are not on PyPI.
"""

import pytest
import torch

from attentions.base import MultiHeadAttention, Pattern
from tests.attentions.claims import build, draw
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes eight seconds


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_SELF])
def test_equals_parallax_with_the_solution_as_its_second_query(pattern: Pattern) -> None:
    naive = peer("fla.ops.parallax.naive").naive_parallax
    attention = build("lla", pattern)
    assert isinstance(attention, MultiHeadAttention)
    q, k, v = (draw(seed, 2, 2, 30, 8) for seed in range(3))
    is_causal = pattern is Pattern.CAUSAL_SELF
    scores = q @ k.mT / 8**0.5
    if is_causal:
        scores = scores.masked_fill(torch.ones(30, 30, dtype=torch.bool).triu(1), -torch.inf)
    weights = scores.softmax(dim=-1)
    mean = weights @ k
    away = k[:, :, None] - mean[..., None, :]  # (B, H, M, N, D)
    covariance = away.mT @ (weights[..., None] * away) + 0.3 * torch.eye(8)
    r = torch.linalg.solve(covariance, mean - q)
    expected = naive(*(x.transpose(1, 2) for x in (q, r, k, v)), causal=is_causal).transpose(1, 2)
    # It computes in float32.
    torch.testing.assert_close(attention.mix(q, k, v), expected, rtol=1e-4, atol=1e-4)
