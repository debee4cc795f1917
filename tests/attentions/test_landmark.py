"""Landmark attention where it is exact, its retrieval, its chunks of queries and its memory."""

import pytest
import torch
from torch import Tensor

from attentions.base import Pattern, UnsupportedPattern
from attentions.sparse.landmark import LandmarkAttention
from tests.attentions.claims import build, draw, holes


def landmark(**settings: int | None) -> LandmarkAttention:
    attention = build("landmark", Pattern.CAUSAL_SELF, **settings)
    assert isinstance(attention, LandmarkAttention)
    return attention


def test_before_the_first_landmark_it_is_softmax_attention() -> None:
    attention, softmax = landmark(block_size=30), build("softmax", Pattern.CAUSAL_SELF)
    softmax.load_state_dict(attention.state_dict())
    query = draw(0, 2, 30, 16)
    torch.testing.assert_close(attention(query), softmax(query))


def test_equal_scores_give_each_landmark_as_much_as_a_token() -> None:
    # Blocks of 3; position 9 is the second of the third block: its own two tokens and two landmarks
    # get a fourth each.
    attention = landmark(block_size=3, num_retrieved=None)
    v = draw(0, 1, 2, 10, 8)
    out = attention.mix(torch.zeros_like(v), torch.zeros_like(v), v)[:, :, -1]
    means = v[:, :, 0:3].mean(dim=2) + v[:, :, 4:7].mean(dim=2)
    torch.testing.assert_close(out, (v[:, :, 8] + v[:, :, 9] + means) / 4)


@pytest.mark.parametrize("num_retrieved", [1, 3, None])
def test_weights_sum_to_1(num_retrieved: int | None) -> None:
    attention = landmark(block_size=3, num_retrieved=num_retrieved)
    q, k = (3.0 * draw(seed, 2, 2, 40, 8) for seed in range(2))
    padding = holes(1, 3, 40)[:2]
    out = attention.mix(q, k, torch.ones_like(k), key_padding_mask=padding)
    rows = out.transpose(1, 2)[~padding & (torch.arange(40) % 4 != 3)]  # these see themselves
    torch.testing.assert_close(rows, torch.ones_like(rows))


def test_retrieving_every_block_is_what_it_does_in_training() -> None:
    few, all_of_them = landmark(num_retrieved=2), landmark(num_retrieved=12)
    all_of_them.load_state_dict(few.state_dict())
    query = draw(0, 2, 64, 16)  # twelve blocks before the last
    expected = all_of_them.train()(query)
    torch.testing.assert_close(all_of_them.eval()(query), expected)
    torch.testing.assert_close(few.train()(query), expected)
    close = torch.isclose(few.eval()(query), expected).all(dim=-1)
    assert close[:, : 3 * 5].all()
    assert not close[:, 3 * 5 :].all()


def test_nobody_reads_the_value_of_a_landmark() -> None:
    attention = landmark(block_size=3, num_retrieved=None)
    q, k, v = (draw(seed, 1, 2, 17, 8) for seed in range(3))
    other = v.clone()
    other[:, :, 3::4] = 100.0
    torch.testing.assert_close(attention.mix(q, k, other), attention.mix(q, k, v))


def test_the_landmark_of_nothing_but_padding_is_not_read() -> None:
    attention = landmark(block_size=3, num_retrieved=None)
    query = draw(0, 1, 17, 16)
    place = torch.arange(17)[None]
    tokens, block = (place >= 4) & (place < 7), (place >= 4) & (place < 8)
    actual = attention(query, key_padding_mask=tokens)[:, 8:]
    torch.testing.assert_close(actual, attention(query, key_padding_mask=block)[:, 8:])


@pytest.mark.parametrize("padded", [False, True])
def test_queries_in_chunks_are_as_all_at_once(padded: bool) -> None:
    attention = landmark()  # blocks of 5, of which 25 are a chunk
    q, k, v = leaves = [draw(seed, 2, 2, 300, 8).requires_grad_() for seed in range(3)]
    padding = holes(1, 3, 300)[:2] if padded else None
    out = attention.mix(q, k, v, key_padding_mask=padding)
    expected = attention._last_rows(q, k, v, padding)
    torch.testing.assert_close(out, expected)
    gradients = [torch.autograd.grad(x.square().sum(), leaves) for x in (out, expected)]
    torch.testing.assert_close(*gradients)


def test_scores_are_not_kept_for_the_backward_pass() -> None:
    attention = landmark()
    q, k, v = (draw(seed, 1, 1, 600, 8).requires_grad_() for seed in range(3))
    sizes: list[int] = []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attention.mix(q, k, v)
    assert sum(sizes) < 600 * 600 / 4


def test_memory_holds_every_token() -> None:
    attention = landmark()
    _, state = attention.prefill(draw(0, 3, 34, 16), attention.init_state(3))
    assert state.num_bytes == 3 * 2 * 34 * 16 * 8  # batch, k and v, tokens, embed_dim, float64


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (Pattern.NONCAUSAL_SELF, "the block before it to those after it"),
        (Pattern.NONCAUSAL_CROSS, "places in the query's own sequence"),
        (Pattern.CAUSAL_CROSS, "places in the query's own sequence"),
    ],
)
def test_other_patterns_are_refused_with_the_reason(pattern: Pattern, reason: str) -> None:
    with pytest.raises(UnsupportedPattern, match=reason):
        build("landmark", pattern)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("block_size", "block_size must be positive, got 0"),
        ("num_retrieved", "num_retrieved must be positive or null, got 0"),
    ],
)
def test_bad_settings_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        landmark(**{setting: 0})
