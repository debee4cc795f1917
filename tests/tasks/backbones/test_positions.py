import math

import pytest
import torch

from tasks.backbones.positions import Kind, Positions, interleaved, sinusoids


def test_positions_are_sines_then_cosines_of_falling_frequency() -> None:
    table = sinusoids(50, 8).double()
    for position in (0, 1, 7, 49):
        for i in range(4):
            angle = position * 10_000 ** (-i / 3)
            expected = torch.tensor([math.sin(angle), math.cos(angle)], dtype=torch.float64)
            # float32 angles of at most 49 are right to 4e-6
            torch.testing.assert_close(table[position, [i, 4 + i]], expected, rtol=0, atol=1e-5)


def test_interleaved_positions_are_those_of_the_paper() -> None:
    table = interleaved(50, 8).double()
    for position in (0, 1, 7, 49):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            expected = torch.tensor([math.sin(angle), math.cos(angle)], dtype=torch.float64)
            found = table[position, [2 * i, 2 * i + 1]]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "interleaved"])
def test_each_place_has_its_row(kind: Kind) -> None:
    positions, x = Positions(kind, 9, 8, init_std=0.5), torch.randn(2, 9, 8)
    added = positions(x) - x
    torch.testing.assert_close(added[0], added[1])
    assert torch.cdist(added[0], added[0]).fill_diagonal_(1.0).amin() > 0.1
    torch.testing.assert_close(positions(x[:, 4:7], 4), positions(x)[:, 4:7])


def test_learned_rows_are_parameters_of_the_given_spread() -> None:
    (rows,) = Positions("learned", 400, 50, init_std=0.5).parameters()
    assert rows.shape == (400, 50)
    assert rows.std().item() == pytest.approx(0.5, rel=0.05)
    assert not list(Positions("sinusoidal", 400, 50, init_std=0.5).parameters())


def test_none_adds_nothing() -> None:
    x = torch.randn(2, 9, 8)
    assert torch.equal(Positions("none", 9, 8, init_std=0.5)(x), x)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "interleaved", "none"])
def test_beyond_max_len_is_refused(kind: Kind) -> None:
    positions = Positions(kind, 9, 8, init_std=0.5)
    with pytest.raises(ValueError, match=r"at most 9 tokens \(max_len\), got 10"):
        positions(torch.zeros(1, 2, 8), 8)


def test_an_unknown_kind_and_an_odd_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"positions must be one of .*, got 'rotary'"):
        Positions("rotary", 9, 8, init_std=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="even embed_dim, got 9"):
        Positions("sinusoidal", 9, 9, init_std=0.5)
