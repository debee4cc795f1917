"""Routing attention beyond the contract: its exact limit, small windows, k-means, its settings."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from attentions.base import Pattern
from attentions.sparse.routing import RoutingAttention
from tests.attentions.claims import build, draw, holes, inputs
from tests.oracles.routing import oracle

NS, CS, NC = Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_CROSS
CLAIMED = [NS, CS, NC]


def routing(pattern: Pattern, **settings: float) -> RoutingAttention:
    attention = build("routing", pattern, **settings)
    assert isinstance(attention, RoutingAttention)
    return attention


@pytest.mark.parametrize("pattern", CLAIMED)
def test_one_cluster_that_takes_all_is_softmax_of_normalised_vectors(pattern: Pattern) -> None:
    attention = routing(pattern, num_clusters=1, window=30)
    q, v = draw(0, 2, 2, 30, 8), draw(2, 2, 2, 30, 8)
    k = q if pattern is CS else draw(1, 2, 2, 30, 8)
    expected = F.scaled_dot_product_attention(
        F.layer_norm(q, (8,)), F.layer_norm(k, (8,)), v, is_causal=pattern is CS
    )
    assert_close(attention.mix(q, k, v), expected)


@pytest.mark.parametrize("pattern", CLAIMED)
def test_products_are_scaled_as_asked(pattern: Pattern) -> None:
    attention = routing(pattern, num_clusters=3, window=11, scale=1.0)
    query, context = inputs(pattern, 16)
    keys = query if context is None else context
    masks = [torch.zeros(x.shape[:2], dtype=torch.bool) for x in (query, keys)]
    assert_close(attention(query, context), oracle(attention, query, keys, *masks))
    if pattern is CS:
        answered, state = attention.prefill(query[:, :9], attention.init_state(2))
        step, _ = attention.step(query[:, 9:10], state)
        assert_close(torch.cat([answered, step], dim=1), attention(query)[:, :10])


@pytest.mark.parametrize("pattern", CLAIMED)
@pytest.mark.parametrize("padded", [False, True])
def test_windows_that_leave_some_out_match_the_oracle(pattern: Pattern, padded: bool) -> None:
    # The contract's window is so long that every query is in some cluster.
    attention = routing(pattern, num_clusters=3, window=3)
    query, context = inputs(pattern, 24, batch_size=3)
    keys = query if context is None else context
    key_mask = holes(2, 3, keys.shape[1]) & padded
    query_mask = key_mask if context is None else holes(3, 3, 24) & padded
    masks = {"query_padding_mask": query_mask, "key_padding_mask": key_mask}
    expected = oracle(attention, query, keys, **masks)
    actual = attention(query, context, **masks)
    assert_close(actual * ~query_mask[..., None], expected * ~query_mask[..., None])
    if pattern is NS and not padded:
        # Nothing but the bias where no head took the query.
        assert (actual == attention.out_proj.bias).all(dim=-1).any()


@pytest.mark.parametrize("pattern", CLAIMED)
def test_centroids_move_in_training_to_the_means_of_what_is_nearest(pattern: Pattern) -> None:
    attention = routing(pattern, num_clusters=4, decay=0.9)
    q, k, v = (draw(seed, 2, 2, 30, 8) for seed in range(3))
    k = q if pattern is CS else k
    mask = holes(3, 2, 30)  # the second sample is padding
    before = attention.centroids.clone()
    before[0, 3] = attention.centroids[0, 3] = 100.0  # nothing is near
    attention.mix(q, k, v, query_padding_mask=mask, key_padding_mask=mask)
    assert torch.equal(attention.centroids, before)
    attention.train().mix(q, k, v, query_padding_mask=mask, key_padding_mask=mask)
    for h in range(2):
        for c in range(4):
            means = []
            for x in (F.layer_norm(q, (8,)), F.layer_norm(k, (8,))):
                nearest = torch.cdist(x[0, h], before[h]).argmin(dim=-1)
                mine = x[0, h][nearest == c]
                means.append(mine.mean(dim=0) if len(mine) else before[h, c])
            assert_close(attention.centroids[h, c], 0.9 * before[h, c] + 0.05 * sum(means))
    assert torch.equal(attention.centroids[0, 3], before[0, 3])


def test_k_means_finds_the_clusters() -> None:
    attention = routing(CS, num_clusters=2, decay=0.9, num_heads=1).train()
    centres = F.layer_norm(draw(0, 2, 16), (16,))
    x = (centres.repeat(50, 1) + 0.1 * draw(1, 100, 16))[None, None]
    attention.centroids.copy_(centres + draw(2, 2, 16))
    for _ in range(100):
        attention.mix(x, x, x)
    assert (attention.centroids[0] - centres).norm(dim=-1).max() < 0.1


def test_causal_memory_holds_every_key_value_and_cluster() -> None:
    attention = routing(CS)
    state = attention.init_state(2)
    for _ in range(20):
        _, state = attention.step(draw(0, 2, 1, 16), state)
    # Room for 32: k and v in float64, and the cluster for each of 2 heads in int32.
    assert state.num_bytes == 2 * 32 * (2 * 16 * 8 + 2 * 4)


def test_clusters_and_window_follow_from_max_len() -> None:
    for max_len, clusters, window in [(1, 1, 1), (8, 3, 3), (1024, 32, 32), (2000, 45, 45)]:
        attention = RoutingAttention(16, 2, NS, max_len=max_len)
        assert attention.centroids.shape == (2, clusters, 8)
        assert attention.window == window


def test_other_seeds_draw_other_centroids() -> None:
    centroids = [routing(NS, seed=seed).centroids for seed in (0, 0, 1)]
    assert torch.equal(centroids[0], centroids[1])
    assert not torch.equal(centroids[0], centroids[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_clusters": 0}, "num_clusters must be positive, got 0"),
        ({"window": 0}, "window must be positive, got 0"),
        ({"scale": 0.0}, r"scale must be positive or null, got 0.0"),
        ({"decay": 1.5}, r"decay must be in \[0, 1\], got 1.5"),
        ({"max_len": None, "window": None}, "needs num_clusters and window, or max_len, got none"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        routing(NS, **settings)
