"""Both patterns of the Sparse Transformer where they are exact, and their memory."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from attentions.base import MultiHeadAttention, Pattern, UnsupportedPattern
from tests.attentions.claims import build, draw, holes, inputs

FIXED, STRIDED = "sparse_transformer_fixed", "sparse_transformer_strided"
each_pattern = pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF])


@each_pattern
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (FIXED, {"stride": 70, "num_summary": 3}),
        (FIXED, {"stride": 99, "num_summary": 1}),
        (FIXED, {"stride": 6, "num_summary": 6}),
        (STRIDED, {"stride": 70}),
        (STRIDED, {"stride": 99}),
        (STRIDED, {"stride": 1}),
    ],
)
def test_seeing_everything_it_is_softmax_attention(
    name: str, settings: dict[str, int], pattern: Pattern
) -> None:
    sparse, softmax = build(name, pattern, **settings), build("softmax", pattern)
    softmax.load_state_dict(sparse.state_dict())
    query, _ = inputs(pattern, 70)
    mask = holes(1, 3, 70)[1:2].expand(2, -1)
    for padding in (None, mask):
        actual = sparse(query, key_padding_mask=padding)
        torch.testing.assert_close(actual, softmax(query, key_padding_mask=padding))


@pytest.mark.slow  # the peer imports the compiler
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@each_pattern
@pytest.mark.parametrize("name", [FIXED, STRIDED])
def test_equals_flex_attention_under_the_same_mask(name: str, pattern: Pattern) -> None:
    stride, num_summary = 6, 2

    def sees(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if name == FIXED:
            seen = (i // stride == j // stride) | (j % stride >= stride - num_summary)
        else:
            seen = ((i - j).abs() < stride) | ((i - j) % stride == 0)
        return seen & (j <= i) if pattern is Pattern.CAUSAL_SELF else seen

    settings = {"num_summary": num_summary} if name == FIXED else {}
    sparse = build(name, pattern, stride=stride, **settings)
    assert isinstance(sparse, MultiHeadAttention)
    q, k, v = (draw(seed, 2, 2, 70, 8) for seed in range(3))
    peer = flex_attention(q, k, v, block_mask=create_block_mask(sees, 1, 1, 70, 70, device="cpu"))
    assert isinstance(peer, Tensor)
    torch.testing.assert_close(sparse.mix(q, k, v), peer)


@pytest.mark.parametrize("name", [FIXED, STRIDED])
def test_noncausal_sees_as_much_ahead_as_behind(name: str) -> None:
    sparse = build(name, Pattern.NONCAUSAL_SELF, stride=5)
    query, _ = inputs(Pattern.NONCAUSAL_SELF, 40, batch_size=1)
    others = query.repeat(40, 1, 1)
    others[range(40), range(40)] = 5.0
    moved = (sparse(others) - sparse(query)).abs().amax(dim=-1) > 1e-6  # [j, i]: j moves i
    ahead, behind = moved.tril(-1).sum(), moved.triu(1).sum()
    if name == STRIDED:
        assert torch.equal(moved, moved.T)
    else:  # a block has its two summaries at its end: the first one has none behind it
        assert (ahead, behind) == (8 * 10 + 5 * 2 * 28, 8 * 10 + 5 * 2 * 28)
    assert ahead == behind


def test_fixed_memory_holds_a_block_and_the_summaries() -> None:
    sparse = build(FIXED, Pattern.CAUSAL_SELF, stride=5, num_summary=2)
    _, state = sparse.prefill(draw(0, 3, 34, 16), sparse.init_state(3))
    per_position = 3 * 2 * 16 * 8  # batch, k and v, embed_dim, float64
    assert state.num_bytes == per_position * (5 + 6 * 2 + 1)
    _, state = sparse.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == per_position * (5 + 2 * 13)  # the summaries' room doubled


def test_strided_memory_holds_every_token() -> None:
    sparse = build(STRIDED, Pattern.CAUSAL_SELF, stride=5)
    _, state = sparse.prefill(draw(0, 3, 34, 16), sparse.init_state(3))
    assert state.num_bytes == 3 * 2 * 16 * 8 * 34  # batch, k and v, embed_dim, float64, tokens


@pytest.mark.parametrize("name", [FIXED, STRIDED])
@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS])
def test_cross_is_refused_with_the_reason(name: str, pattern: Pattern) -> None:
    with pytest.raises(UnsupportedPattern, match="compare places in one sequence"):
        build(name, pattern)


@pytest.mark.parametrize(
    ("name", "setting", "value", "message"),
    [
        (STRIDED, "stride", 0, "stride must be positive, got 0"),
        (FIXED, "stride", -1, "stride must be positive, got -1"),
        (FIXED, "num_summary", 0, "num_summary must be from 1 to stride = 5, got 0"),
        (FIXED, "num_summary", 6, "num_summary must be from 1 to stride = 5, got 6"),
    ],
)
def test_bad_settings_are_refused(name: str, setting: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, Pattern.CAUSAL_SELF, **{setting: value})
