"""Routing attention beside routing-transformer, given the same centroids."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Pattern
from attentions.sparse.routing import RoutingAttention
from tests.attentions.claims import build, draw
from tests.peers import peer

routing_transformer = peer("routing_transformer.routing_transformer")
NS, CS, NC = Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_CROSS


def ours(pattern: Pattern) -> RoutingAttention:
    attention = build("routing", pattern, num_clusters=4, window=6)
    assert isinstance(attention, RoutingAttention)
    return attention


def theirs(attention: RoutingAttention, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    module = routing_transformer.KmeansAttention(4, 6, 2, 8, **settings).double().eval()
    module.kmeans.means.copy_(attention.centroids)
    module.kmeans.initted.fill_(True)
    # It routes normalised vectors, but multiplies what it is given.
    out, _ = module(F.layer_norm(q, (8,)), F.layer_norm(k, (8,)), v)
    return out


@pytest.mark.parametrize("pattern", [NS, NC])
def test_equals_routing_transformer(pattern: Pattern) -> None:
    attention = ours(pattern)
    q = draw(0, 2, 2, 30, 8)
    k, v = (draw(seed, 2, 2, 20 if pattern is NC else 30, 8) for seed in (1, 2))
    expected = theirs(attention, q, k, v, receives_context=pattern is NC)
    # It adds 1e-5 to the number of clusters that a query is in.
    torch.testing.assert_close(attention.mix(q, k, v), expected, rtol=1e-4, atol=1e-4)


def test_routing_transformer_chooses_members_by_later_positions() -> None:
    # What ours must not do: the same first half, other later positions.
    attention = ours(CS)
    q, v = draw(0, 1, 2, 32, 8), draw(1, 1, 2, 32, 8)
    other = torch.cat([q[:, :, :16], draw(2, 1, 2, 16, 8)], dim=2)
    there = [theirs(attention, x, x, v, causal=True, shared_qk=True)[:, :, :16] for x in (q, other)]
    assert (there[0] - there[1]).abs().max() > 0.1
    torch.testing.assert_close(*(attention.mix(x, x, v)[:, :, :16] for x in (q, other)))
