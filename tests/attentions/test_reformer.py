"""Reformer beyond the contract: its exact limit, its rounds, its state, its settings."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attentions.base import Pattern
from attentions.sparse.reformer import ReformerAttention
from tests.attentions.claims import build, draw, holes
from tests.oracles.reformer import oracle

NS, CS = Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF


def reformer(pattern: Pattern, **settings: int) -> ReformerAttention:
    attention = build("reformer", pattern, **settings)
    assert isinstance(attention, ReformerAttention)
    return attention


def shared_softmax(q: Tensor, v: Tensor, *, is_causal: bool) -> Tensor:
    """Softmax of q_i . q_j / |q_j| over every other j, or over the earlier ones."""
    scores = q @ (q / q.norm(dim=-1, keepdim=True)).mT
    others = ~torch.eye(q.shape[-2], dtype=torch.bool)
    if is_causal:
        others = others.tril()
        others[0, 0] = True
    return scores.masked_fill(~others, -torch.inf).softmax(dim=-1) @ v


@pytest.mark.parametrize("pattern", [NS, CS])
@pytest.mark.parametrize("num_rounds", [1, 3])
def test_one_bucket_in_one_chunk_is_softmax_over_the_others(
    pattern: Pattern, num_rounds: int
) -> None:
    attention = reformer(pattern, chunk_size=30, num_rounds=num_rounds)
    attention.rotations.zero_()  # the first of equal sides is taken
    q, v = draw(0, 2, 2, 30, 8), draw(1, 2, 2, 30, 8)
    assert_close(attention.mix(q, q, v), shared_softmax(q, v, is_causal=pattern.is_causal))


def test_causal_sees_the_chunk_size_before_it_in_its_bucket() -> None:
    attention = reformer(CS, chunk_size=5, num_rounds=1)
    attention.rotations.zero_()
    q, v = draw(0, 1, 2, 30, 8), draw(1, 1, 2, 30, 8)
    output = attention.mix(q, q, v)
    for i in range(30):
        near = slice(max(0, i - 5), i + 1)
        expected = shared_softmax(q[:, :, near], v[:, :, near], is_causal=True)[:, :, -1]
        assert_close(output[:, :, i], expected)


@pytest.mark.parametrize("pattern", [NS, CS])
def test_a_round_that_repeats_another_adds_nothing(pattern: Pattern) -> None:
    once, twice = reformer(pattern, num_rounds=1), reformer(pattern, num_rounds=2)
    twice.rotations.copy_(once.rotations.expand(-1, -1, 2, -1))
    q, v = draw(0, 2, 2, 30, 8), draw(1, 2, 2, 30, 8)
    assert_close(twice.mix(q, q, v), once.mix(q, q, v))


@pytest.mark.parametrize("pattern", [NS, CS])
def test_a_position_alone_in_its_bucket_gets_its_own_value(pattern: Pattern) -> None:
    attention = reformer(pattern, chunk_size=8, num_rounds=2, num_buckets=16)
    attention.rotations.copy_(torch.eye(8, dtype=torch.float64)[:, None])
    q = torch.cat([torch.eye(8), -torch.eye(8)]).double().expand(1, 2, -1, -1)
    v = draw(1, 1, 2, 16, 8)
    assert_close(attention.mix(q, q, v), v)


@pytest.mark.parametrize("pattern", [NS, CS])
def test_a_product_of_hashes_matches_the_oracle(pattern: Pattern) -> None:
    attention = reformer(pattern, chunk_size=2, num_rounds=3, num_buckets=8)
    assert attention.factors == [2, 4]  # the contract's tests have a single hash
    query, mask = draw(0, 3, 21, 16).requires_grad_(), holes(1, 3, 21)
    leaves = [query, *attention.parameters()]
    outputs = (
        attention(query, key_padding_mask=mask),
        oracle(attention, query, query, mask, mask),
    )
    actual, expected = (output * ~mask[..., None] for output in outputs)
    assert_close(actual, expected)
    upstream = draw(2, *actual.shape)
    gradients = (
        torch.autograd.grad(output, leaves, upstream, materialize_grads=True)
        for output in (actual, expected)
    )
    assert_close(*gradients, rtol=1e-9, atol=1e-9)  # same sums, in another order


@pytest.mark.parametrize(
    ("num_buckets", "factors"),
    [
        (2, [2]),
        (128, [128]),
        (130, [8, 18]),  # rounded up to 144
        (256, [16, 16]),
        (512, [16, 32]),
    ],
)
def test_many_buckets_are_a_product_of_even_factors(num_buckets: int, factors: list[int]) -> None:
    attention = reformer(NS, chunk_size=64, num_rounds=1, num_buckets=num_buckets)
    assert attention.factors == factors
    assert attention.rotations.shape == (2, 8, 1, sum(factors) // 2)
    buckets = attention._hash(draw(0, 1, 2, 20 * num_buckets, 8)).unique()
    assert buckets.min() >= 0
    assert buckets.max() < attention.num_buckets
    assert len(buckets) > 0.7 * num_buckets  # of 20 draws each; corners are not of one size


def test_near_vectors_share_a_bucket_more_often_than_far_ones() -> None:
    attention = reformer(NS, num_rounds=200, num_buckets=8)
    x = draw(0, 1, 2, 1, 8)
    near, far = x + 0.3 * draw(1, 1, 2, 50, 8), draw(2, 1, 2, 50, 8)
    buckets = attention._hash(torch.cat([x, near, far], dim=2))
    same = (buckets[..., 1:] == buckets[..., :1]).double()  # (1, H, R, 100)
    # By chance one in 8; the standard error over 20,000 draws is below 0.005.
    assert same[..., 50:].mean() < 0.2
    assert same[..., :50].mean() > 0.4
    assert buckets.min() == 0
    assert buckets.max() == 7


def test_memory_holds_every_key_value_and_bucket() -> None:
    attention = reformer(CS, num_rounds=3)
    state = attention.init_state(2)
    for _ in range(20):
        _, state = attention.step(draw(0, 2, 1, 16), state)
    # Room for 32: k and v in float64, and for each of 2 heads 3 buckets in int32.
    assert state.num_bytes == 2 * 32 * (2 * 16 * 8 + 2 * 3 * 4)


def test_buckets_follow_from_max_len() -> None:
    common = {"chunk_size": 64, "num_rounds": 1}
    built = [ReformerAttention(16, 2, NS, max_len=length, **common) for length in (1, 64, 65, 4096)]
    assert [attention.num_buckets for attention in built] == [2, 2, 4, 128]


def test_other_seeds_hash_otherwise() -> None:
    rotations = [reformer(NS, seed=seed).rotations for seed in (0, 0, 1)]
    assert torch.equal(rotations[0], rotations[1])
    assert not torch.equal(rotations[0], rotations[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": 0}, "chunk_size and num_rounds must be positive, got 0 and 1"),
        ({"num_rounds": -1}, "chunk_size and num_rounds must be positive, got 4 and -1"),
        ({"num_buckets": 3}, "num_buckets must be even and positive, got 3"),
        ({"num_buckets": 0}, "num_buckets must be even and positive, got 0"),
        ({}, "needs num_buckets or max_len, got neither"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReformerAttention(16, 2, NS, **({"chunk_size": 4, "num_rounds": 1} | settings))
