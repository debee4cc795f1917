"""Sparse Sinkhorn attention beyond the contract: its limits, sorting, state and settings."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attentions.base import Pattern
from attentions.sparse.sinkhorn import SinkhornAttention
from tests.attentions.claims import build, draw

NS, CS = Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF


def sinkhorn(pattern: Pattern, **settings: float) -> SinkhornAttention:
    attention = build("sinkhorn", pattern, **settings)
    assert isinstance(attention, SinkhornAttention)
    return attention


def balanced(attention: SinkhornAttention, logits: Tensor) -> Tensor:
    """P of logits (B, H, T, T), without padding."""
    return attention._balance(logits, attention._hidden(torch.ones(1, logits.shape[-1]).bool()))


@pytest.mark.parametrize("pattern", [NS, CS])
@pytest.mark.parametrize("length", [1, 20, 32])
def test_a_single_block_is_softmax_attention(pattern: Pattern, length: int) -> None:
    # Noncausal, the sorted block is the block itself: each key counts twice. Causal, there is none.
    attention = sinkhorn(pattern, block_size=32)
    softmax = build("softmax", pattern)
    softmax.load_state_dict(attention.state_dict(), strict=False)
    query = draw(0, 2, length, 16)
    assert_close(attention(query), softmax(query))


def test_rows_and_columns_sum_to_one() -> None:
    attention = sinkhorn(NS, num_iterations=200)
    mixing = balanced(attention, 3.0 * draw(0, 2, 2, 7, 7))
    assert_close(mixing.sum(dim=-1), torch.ones(2, 2, 7).double())
    assert_close(mixing.sum(dim=-2), torch.ones(2, 2, 7).double())


def test_a_low_temperature_sorts() -> None:
    attention = sinkhorn(NS, num_iterations=50, temperature=0.01)
    order = torch.tensor([2, 0, 3, 1])
    logits = torch.eye(4).double()[order] + 0.1 * draw(0, 1, 1, 4, 4)
    assert_close(balanced(attention, logits)[0, 0], torch.eye(4).double()[order])


def test_causal_mixes_earlier_blocks_alone_and_balances_their_use_so_far() -> None:
    attention = sinkhorn(CS, num_iterations=1)
    mixing = balanced(attention, draw(0, 2, 2, 7, 7))
    assert torch.equal(mixing, mixing.tril(-1))
    assert (mixing.sum(dim=-1)[..., 1:] > 0).all()
    # The first row that may mix a block gives it all of that column.
    assert_close(mixing.diagonal(-1, dim1=-2, dim2=-1), torch.ones(2, 2, 6).double().cumprod(-1))


def test_noise_acts_in_training_alone() -> None:
    query = draw(0, 2, 20, 16)
    noisy, plain = (sinkhorn(NS, gumbel_noise=noise) for noise in (True, False))
    plain.load_state_dict(noisy.state_dict())
    assert torch.equal(noisy(query), plain(query))
    assert torch.equal(plain.train()(query), plain(query))
    first, second = noisy.train()(query), noisy(query)
    assert (first - second).abs().max() > 1e-3


def test_gumbel_noise_draws_permutations() -> None:
    attention = sinkhorn(NS, num_iterations=20, temperature=0.2, gumbel_noise=True).train()
    logits = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double().expand(20_000, 1, 2, 2)
    kept_order = (balanced(attention, logits)[..., 0, 0] > 0.5).double().mean()
    # The two permutations differ by 1 and by the sum of two logistic numbers, the differences of
    # Gumbel ones. The distribution function of that sum is e^x (e^x - 1 - x) / (e^x - 1)^2.
    probability = math.e * (math.e - 2.0) / (math.e - 1.0) ** 2
    assert abs(kept_order - probability) < 5 * 0.5 / 20_000**0.5


def test_gumbel_noise_is_not_its_mirror_image() -> None:
    # Row 0 takes the column of its largest logit, any with the probability that softmax gives it;
    # with the noise negated the second would be taken in 0.44 of the cases, not in 0.31. The other
    # rows hold their own columns, so that a column which row 0 takes is shared.
    num_draws, num_blocks = 20_000, 7
    attention = sinkhorn(NS, num_iterations=1, temperature=0.01, gumbel_noise=True).train()
    logits = 50.0 * torch.eye(num_blocks).double()
    logits[0] = 0.0
    logits[0, 1] = 1.0
    mixing = balanced(attention, logits.expand(num_draws, 1, num_blocks, num_blocks))
    taken = (mixing[:, 0, 0, 1] > 0.25).double().mean()
    probability = math.e / (math.e + num_blocks - 1)
    assert abs(taken - probability) < 5 * 0.5 / num_draws**0.5


def test_memory_has_room_for_max_len() -> None:
    attention = sinkhorn(CS, max_len=30, block_size=4)
    state = attention.init_state(3)
    for _ in range(30):
        _, state = attention.step(draw(0, 3, 1, 16), state)
        # 8 blocks of keys and of values, and one sorted block of each, in float64.
        assert state.num_bytes == 3 * 2 * (8 + 1) * 4 * 16 * 8
    with pytest.raises(ValueError, match="length 31 is longer than max_len = 30"):
        attention.step(draw(0, 3, 1, 16), state)


def test_longer_inputs_are_refused() -> None:
    attention = sinkhorn(NS, max_len=30)
    assert attention(draw(0, 1, 30, 16)).shape == (1, 30, 16)
    with pytest.raises(ValueError, match="length 31 is longer than max_len = 30"):
        attention(draw(0, 1, 31, 16))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 0}, "block_size and num_iterations must be positive, got 0 and 3"),
        ({"num_iterations": 0}, "block_size and num_iterations must be positive, got 4 and 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"max_len": None}, "needs max_len, which says how many blocks there can be, got None"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sinkhorn(NS, **settings)
