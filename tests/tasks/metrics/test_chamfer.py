"""Chamfer distances and F-Score against their formulas, on random and on real clouds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tasks.metrics.chamfer import chamfer_l1, cloud_scores
from tasks.metrics.groups import GroupMeans


def by_formula(points: Tensor, target: Tensor) -> dict[str, float]:
    """cab 6.4, of one cloud (N, 3) without padding."""
    table = torch.cdist(points, target, compute_mode="donot_use_mm_for_euclid_dist")
    there, back = table.amin(dim=1), table.amin(dim=0)
    precision = (there < 0.01).double().mean().item()
    recall = (back < 0.01).double().mean().item()
    both = precision + recall
    return {
        "cd_l1": 1000 * (there.mean() + back.mean()).item() / 2,
        "cd_l2": 1000 * (there.square().mean() + back.square().mean()).item(),
        "f_score": 2 * precision * recall / both if both else 0.0,
    }


def check(points: Tensor, target: Tensor) -> None:
    scores = cloud_scores(points, target)
    for row, (cloud, whole) in enumerate(zip(points, target, strict=True)):
        for name, expected in by_formula(cloud.double(), whole.double()).items():
            assert scores[name].dtype == torch.float64
            assert scores[name][row].item() == pytest.approx(expected, rel=1e-5), name


def test_scores_are_those_of_the_formulas() -> None:
    points, target = 0.05 * torch.rand(3, 201, 3), 0.05 * torch.rand(3, 150, 3)
    check(points, target)
    assert 0.2 < cloud_scores(points, target)["f_score"].mean() < 0.99
    far = cloud_scores(points, target + 1)
    assert far["f_score"].tolist() == [0.0, 0.0, 0.0]


def test_scores_of_real_shapes(real_data: Path) -> None:
    shapes = np.load(real_data / "pointcloud_complete" / "punet_mc5k.npz")
    clouds = [torch.from_numpy(shapes[name][:, :3]) for name in shapes.files[:4]]
    clouds = [cloud / (cloud.amax(dim=0) - cloud.amin(dim=0)).norm() for cloud in clouds]
    # Two samples of one surface, and samples of two surfaces.
    check(
        torch.stack([clouds[0][::2], clouds[1][:2500]]),
        torch.stack([clouds[0][1::2], clouds[2][:2500]]),
    )


def test_the_loss_is_the_score_and_has_its_gradient() -> None:
    points = torch.rand(2, 40, 3, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 60, 3, dtype=torch.float64)
    loss = chamfer_l1(points, target)
    assert_close(1000 * loss.detach(), cloud_scores(points.detach(), target)["cd_l1"])
    table = torch.cdist(points, target)
    dense = (table.amin(dim=2).mean(dim=1) + table.amin(dim=1).mean(dim=1)) / 2
    actual, expected = (torch.autograd.grad(out.sum(), points)[0] for out in (loss, dense))
    assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_padding_counts_in_the_f_score_alone() -> None:
    points, target = 0.03 * torch.rand(2, 50, 3) + 0.004, 0.03 * torch.rand(2, 70, 3)
    padded = torch.cat([torch.zeros(2, 25, 3), points], dim=1)
    scores, plain = cloud_scores(padded, target), cloud_scores(points, target)
    for name in ("cd_l1", "cd_l2"):
        assert_close(scores[name], plain[name])
    for row in range(2):
        expected = by_formula(padded[row].double(), target[row].double())["f_score"]
        assert scores["f_score"][row].item() == pytest.approx(expected, rel=1e-6)
        assert scores["f_score"][row] != plain["f_score"][row]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_cloud_that_is_not_finite_has_no_score(value: float) -> None:
    points, target = torch.rand(2, 9, 3), torch.rand(2, 9, 3)
    points[1, 4, 2] = value
    for score in cloud_scores(points, target).values():
        assert score.isnan().tolist() == [False, True]


def test_categories_count_alike_whatever_their_size() -> None:
    means = GroupMeans(("a", "b"), 4)
    means.update(
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.0, 0.0])}, torch.tensor([0, 2])
    )
    means.update({"a": torch.tensor([4.0]), "b": torch.tensor([3.0])}, torch.tensor([2]))
    result = means.compute()
    assert result["a"].item() == pytest.approx((1 + (2 + 4) / 2) / 2)
    assert result["b"].item() == pytest.approx((0 + 1.5) / 2)
    means.update({"a": torch.tensor([torch.nan]), "b": torch.tensor([0.0])}, torch.tensor([1]))
    assert means.compute()["a"].isnan()
    assert not means.compute()["b"].isnan()
    assert result["a"].dtype == torch.float64
