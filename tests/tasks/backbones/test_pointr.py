"""PoinTr: its sizes against the reference code's, its parts against their definitions."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from attentions import registry
from attentions.base import Pattern
from tasks.backbones.pointr import Fold, PoinTr
from tasks.backbones.points import EdgeConv
from tasks.base import AttentionSlots
from tasks.geometry import neighbours
from tests.tasks.building import settings

SIZES: dict[str, Any] = {
    "embed_dim": 16,
    "num_heads": 2,
    "ffn_dim": 24,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "num_graph_layers": 1,
    "num_grouped": (20, 12),
    "num_neighbours": 5,
    "group_dim": 16,
    "num_queries": 9,
    "fold": 2,
    "fold_dim": 8,
    "global_dim": 24,
    "hidden_dim": 20,
}


def slots(pattern: str, attention: str = "softmax") -> AttentionSlots:
    return AttentionSlots(registry.factory(registry.load(attention)), Pattern(pattern))


def build(pattern: str, attention: str = "softmax", **changes: Any) -> PoinTr:
    return PoinTr(slots(pattern, attention), **{**SIZES, **changes}).double().eval()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # yuxumin/PoinTr at 2e53e72, cfgs/PCN_models/PoinTr.yaml, has 42,498,054. 11,221,248 of
        # them are graph branches of layers that have none; ours adds 22 x 3 x 384 biases.
        (
            {"num_grouped": [512, 128], "num_queries": 224, "fold": 8},
            42_498_054 - 11_221_248 + 22 * 3 * 384,
        ),
        # CAB's lengths: 3,584 - 224 more queries, of three coordinates by 1,024 weights and a bias.
        ({}, 42_498_054 - 11_221_248 + 22 * 3 * 384 + 3 * 3360 * 1025),
    ],
)
def test_it_has_the_parameters_of_the_reference_code(
    changes: dict[str, Any], expected: int
) -> None:
    paper = settings("point_cloud_completion/paper", "noncausal_self")["model"]
    sizes = {name: paper[name] for name in SIZES} | changes
    with torch.device("meta"):
        model = PoinTr(slots("noncausal_self"), **sizes)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert sizes["num_queries"] * sizes["fold"] ** 2 == 14_336


def test_what_is_under_test_stands_in_its_places() -> None:
    own, cross = slots("noncausal_self", "none"), slots("noncausal_cross", "none")
    for places in (own, cross):
        PoinTr(places, **SIZES)
    assert [a.max_len for a in own.under_test] == [12, 12, 9, 9, 9]
    assert [a.layer for a in own.under_test] == [0, 1, 0, 1, 2]
    assert [a.max_len for a in cross.under_test] == [12, 12, 12]


def test_clouds_end_with_what_was_given() -> None:
    points = draw(2, 30, 3)
    coarse, fine = build("noncausal_self")(points)
    assert coarse.shape == (2, 9 + 9, 3)
    assert fine.shape == (2, 9 * 4 + 30, 3)
    assert torch.equal(fine[:, 36:], points)
    assert all((point == points[0]).all(dim=-1).any() for point in coarse[0, 9:])
    # There cannot be more samples than points.
    assert build("noncausal_self", num_queries=40)(points)[0].shape == (2, 40 + 30, 3)


@pytest.mark.parametrize("graph_layers", [0, 1, 2])
def test_the_order_of_points_does_not_matter_behind_the_first(graph_layers: int) -> None:
    # Sampling starts from the first point; softmax attention has no order.
    model, points = build("noncausal_self", num_graph_layers=graph_layers), draw(2, 30, 3)
    order = torch.cat([torch.zeros(1, dtype=torch.int64), torch.randperm(29) + 1])
    plain, mixed = model(points), model(points[:, order])
    assert_close(mixed[0], plain[0])
    assert_close(mixed[1][:, :36], plain[1][:, :36])


def test_samples_of_a_batch_do_not_meet() -> None:
    model, points = build("noncausal_cross"), draw(3, 30, 3)
    together = model(points)[1]
    for row in range(3):
        assert_close(together[row], model(points[row, None])[1][0])


def test_without_cross_attention_only_neighbours_and_what_is_pooled_tell_of_the_scan() -> None:
    points = draw(1, 30, 3)
    other = points.clone()
    other[0, 7] += 0.1
    for attention, graph_layers, reads in [
        ("softmax", 0, True),
        ("none", 1, True),
        ("none", 0, False),
    ]:
        model = build("noncausal_cross", attention, num_graph_layers=graph_layers)
        with torch.no_grad():  # nothing is pooled
            for parameter in model.pool_proxies[-1].parameters():
                parameter.zero_()
        found = (model(points)[1][:, :36] - model(other)[1][:, :36]).abs().max().item()
        assert (found > 1e-12) is reads, (attention, graph_layers)


def test_an_edge_convolution_is_that_of_each_edge() -> None:
    conv = EdgeConv(4, 8).double()
    nn.init.normal_(conv.norm.weight)
    where, others_at = draw(2, 7, 3), draw(2, 11, 3)
    own, others = draw(2, 7, 4), draw(2, 11, 4)
    index = neighbours(where, others_at, 3)
    edges = torch.stack(
        [torch.stack([others[b, index[b, :, k]] for b in range(2)]) - own for k in range(3)],
        dim=2,
    )
    edges = torch.cat([edges, own[:, :, None].expand(-1, -1, 3, -1)], dim=-1)  # (B, N, K, 2 C)
    mapped = torch.einsum("bnkc,oc->bonk", edges, conv.edge.weight)
    normed = F.group_norm(mapped, 4, conv.norm.weight, conv.norm.bias)
    expected = F.leaky_relu(normed, 0.2).amax(dim=-1).mT
    assert_close(conv(own, others, index), expected)


def test_folding_bends_a_square_around_each_query() -> None:
    fold, x = Fold(6, 8, 3).double().eval(), draw(2, 5, 6)
    points = fold(x)
    assert points.shape == (2, 5, 9, 3)
    assert fold.square.tolist()[:4] == [[-1, -1], [0, -1], [1, -1], [-1, 0]]
    place = torch.cat([fold.square[3].double(), x[1, 4]])[None, None]
    bent = fold.first(place)
    expected = fold.second(torch.cat([bent, x[1, 4][None, None]], dim=-1))
    assert_close(points[1, 4, 3], expected[0, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_grouped": (12, 20)}, r"num_grouped must fall .* got \[12, 20\]"),
        ({"num_neighbours": 21}, "num_neighbours must be at most 20, .* got 21"),
        ({"group_dim": 24}, "group_dim must be a multiple of 16, got 24"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("noncausal_self", **changes)
