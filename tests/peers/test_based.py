"""Based beside fla's plain form, which computes in the precision of its inputs."""

import pytest
import torch

from attentions.base import Pattern
from attentions.linear.based import BasedAttention
from tests.attentions.claims import build, draw
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes eight seconds


def test_based_equals_fla() -> None:
    naive = peer("fla.ops.based.naive")
    attention = build("based", Pattern.CAUSAL_SELF, key_dim=5)
    assert isinstance(attention, BasedAttention)
    q, k, v = draw(0, 2, 2, 256, 5), draw(1, 2, 2, 256, 5), draw(2, 2, 2, 256, 8)
    actual = attention.mix(q, k, v)
    # It adds 1e-6 to the normaliser, which is 1/2 at least.
    for expected in (naive.naive_parallel_based(q, k, v), naive.naive_chunk_based(q, k, v)):
        torch.testing.assert_close(actual, expected, rtol=4e-6, atol=4e-6)


@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint")  # fla's own use
def test_its_features_are_those_of_fla_in_another_order() -> None:
    theirs = peer("fla.modules.feature_map").TaylorFeatureMap(5)
    attention = build("based", Pattern.CAUSAL_SELF, key_dim=5)
    assert isinstance(attention, BasedAttention)
    x = draw(0, 50, 5).requires_grad_()  # its checkpoint warns where there is no gradient
    ours = attention._features(x)
    torch.testing.assert_close(ours.sort(dim=-1).values, theirs(x).sort(dim=-1).values)
