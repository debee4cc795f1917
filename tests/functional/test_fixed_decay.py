"""Attention with a fixed decay against its dense table of weights, and its state."""

import pytest
import torch
from torch import Tensor

from attentions.functional.fixed_decay import decayed_attention, decayed_sum, distance_to_last


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


LOG_DECAY = torch.tensor([0.0, -0.05, -8.0], dtype=torch.float64)  # none, slow, within a chunk


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("both_ways", [False, True])
def test_it_is_the_dense_table(length: int, both_ways: bool) -> None:
    q, k, v = draw(0, 2, 3, length, 4), draw(1, 2, 3, length, 4), draw(2, 2, 3, length, 5)
    i = torch.arange(length, dtype=torch.float64)
    weights = ((i[:, None] - i).abs() * LOG_DECAY[:, None, None]).exp()
    weights = weights if both_ways else weights.tril()
    actual = decayed_attention(q, k, v, LOG_DECAY, both_ways=both_ways)
    torch.testing.assert_close(actual, (q @ k.mT * weights) @ v)


def test_the_state_in_two_parts_is_that_of_the_whole() -> None:
    k, v = draw(0, 2, 3, 90, 4), draw(1, 2, 3, 90, 5)

    def state(part: slice, before: Tensor | None = None) -> Tensor:
        some = k[:, :, part]
        return decayed_sum(some, v[:, :, part], LOG_DECAY, distance_to_last(some, None), before)

    expected = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    for i in range(90):
        expected = (
            LOG_DECAY.exp()[:, None, None] * expected + k[:, :, i, :, None] * v[:, :, i, None]
        )
    torch.testing.assert_close(state(slice(0, 90)), expected)
    torch.testing.assert_close(state(slice(60, 90), state(slice(0, 60))), expected)


def test_distances_count_from_the_last_position_that_is_not_padding() -> None:
    mask = torch.tensor([[0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    k = torch.zeros(4, 1, 4, 2, dtype=torch.float64)
    expected = [[3, 2, 1, 0], [3, 2, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    actual = distance_to_last(k, mask)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(distance_to_last(k, None), actual[:1])
