"""Nearest points, neighbours and far points against tables of all distances and plain loops."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tasks import geometry
from tasks.geometry import distances, far_apart, gather, nearest, neighbours


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def dense(points: Tensor, others: Tensor) -> Tensor:
    """All distances (B, N, M), by the definition."""
    return (points[:, :, None] - others[:, None]).square().sum(dim=-1).sqrt()


@pytest.fixture(params=[1, 500, 2**18])  # a row at a time; some rows of one cloud; some clouds
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(geometry.TABLE, "cpu", request.param)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 1), (7, 127), (33, 128), (9, 129), (70, 391)])
def test_distances_and_their_gradients_are_those_of_the_dense_table(n: int, m: int) -> None:
    points, others = draw(3, n, 3).requires_grad_(), draw(3, m, 3).requires_grad_()
    table, found = dense(points, others).amin(dim=-1), distances(points, others)
    assert_close(found, table, rtol=1e-12, atol=0.0)
    upstream = draw(3, n)
    actual, expected = (
        torch.autograd.grad(out, (points, others), upstream) for out in (found, table)
    )
    assert_close(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("table")
def test_the_nearest_is_the_first_of_the_nearest() -> None:
    points, others = draw(2, 40, 3), draw(2, 300, 3)
    others[:, 150:] = others[:, :150]
    assert torch.equal(nearest(points, others), dense(points, others[:, :150]).argmin(dim=-1))


@pytest.mark.usefixtures("table")
def test_neighbours_are_the_least_of_the_dense_table() -> None:
    points, others = draw(2, 21, 3), draw(2, 57, 3)
    expected = dense(points, others).argsort(dim=-1)[..., :9]
    found = neighbours(points, others, 9)
    assert torch.equal(found.sort(dim=-1).values, expected.sort(dim=-1).values)
    with pytest.raises(ValueError, match="9 neighbours among 8 points"):
        neighbours(points, others[:, :8], 9)


def test_small_distances_are_exact_far_from_the_origin() -> None:
    others = draw(1, 500, 3, dtype=torch.float32) + 50
    points = others.roll(1, dims=1) + 2**-13  # exact in float32
    expected = dense(points.double(), others.double()).amin(dim=-1)
    assert_close(distances(points, others).double(), expected, rtol=1e-6, atol=0.0)


def test_gradients_are_finite_where_points_meet() -> None:
    points = draw(1, 5, 3).requires_grad_()
    distances(points, points.detach()).sum().backward()
    assert points.grad is not None
    assert not points.grad.any()


def test_what_is_nan_stays_nan() -> None:
    points, others = draw(1, 4, 3), draw(1, 300, 3)
    others[0, 200, 1] = torch.nan
    assert distances(points, others).isnan().all()
    assert distances(others, points).isnan().sum() == 1


def test_half_precision_is_measured_in_float32() -> None:
    points, others = draw(1, 9, 3).bfloat16(), draw(1, 9, 3).bfloat16()
    found = distances(points, others)
    assert found.dtype == torch.float32
    assert_close(found, dense(points.float(), others.float()).amin(dim=-1))


def loop(points: list[list[float]], count: int) -> list[int]:
    """Farthest point sampling by its definition, for points that are not at the origin."""
    taken = [0]
    while len(taken) < count:
        gaps = [
            min(sum((a - b) ** 2 for a, b in zip(p, points[t], strict=True)) for t in taken)
            for p in points
        ]
        taken.append(gaps.index(max(gaps)))
    return taken


def test_far_points_are_those_of_a_plain_loop() -> None:
    points = draw(3, 37, 3)
    found = far_apart(points, 20)
    for cloud, row in zip(points, found, strict=True):
        assert row.tolist() == loop(cloud.tolist(), 20)


def test_a_sample_of_a_sample_is_its_beginning() -> None:
    points = draw(2, 50, 3)
    order = far_apart(points, 30)
    assert torch.equal(far_apart(gather(points, order), 12), torch.arange(12).expand(2, -1))


def test_padding_is_not_sampled_and_points_are_repeated_when_none_is_left() -> None:
    points = draw(1, 9, 3)
    points[:, 3:6] = 0
    found = far_apart(points, 9)[0]
    assert set(found[:6].tolist()) == {0, 1, 2, 6, 7, 8}
    assert found[6:].tolist() == [0, 0, 0]
