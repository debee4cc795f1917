import pytest
import torch

from attentions.functional.positions import alibi, rotate
from tests.attentions.claims import draw


def test_pairs_turn_as_complex_numbers() -> None:
    x, positions = draw(0, 2, 3, 5, 8), torch.tensor([[0, 1, 2, 3, 4], [7, 0, 300, 5, 10**5]])
    rates = [100.0 ** (-i / 8) for i in range(0, 8, 2)]
    turns = torch.polar(torch.ones(4).double(), torch.tensor(rates, dtype=torch.float64))
    powers = torch.stack([torch.stack([turns**p for p in row.tolist()]) for row in positions])
    expected = torch.complex(*x.chunk(2, dim=-1)) * powers[:, None]
    actual = rotate(x, positions, 100.0)
    # An angle of 1e5 rad, rounded to float64.
    torch.testing.assert_close(torch.complex(*actual.chunk(2, dim=-1)), expected, atol=1e-9, rtol=0)


def test_half_precision_tells_neighbours_apart() -> None:
    x = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16)
    turned = rotate(x, torch.tensor([[256, 257]]), 10_000.0)
    assert turned.dtype == torch.bfloat16
    assert not torch.equal(turned[:, :, 0], turned[:, :, 1])


def test_alibi_has_the_slopes_of_the_paper() -> None:
    # Section 3: eight heads have the slopes 1/2, 1/4, ..., 1/256; another number of heads, as in
    # the authors' code: those of four, then every second one of eight.
    far = torch.tensor([0]), torch.tensor([1])
    assert alibi(8, *far).flatten().tolist() == [-(0.5**h) for h in range(1, 9)]
    four = [-(0.5**h) for h in (2, 4, 6, 8)]
    assert alibi(6, *far).flatten().tolist() == [*four, -0.5, -(0.5**3)]


@pytest.mark.parametrize("num_heads", [1, 2, 3, 16])
def test_alibi_falls_linearly_with_the_distance(num_heads: int) -> None:
    positions = torch.arange(5)
    bias = alibi(num_heads, positions[2:4], positions)
    assert bias.shape == (num_heads, 2, 5)
    for head, slope in enumerate(-bias[:, 0, 3]):
        assert slope > 0
        for i, j in ((0, 0), (0, 4), (1, 0), (1, 3)):
            assert bias[head, i, j] == pytest.approx(-slope.item() * abs(i + 2 - j))
