"""Combiner beyond the contract: its exact limits, its cost, its state, its settings."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from attentions.base import Pattern
from attentions.sparse.combiner import CombinerAttention
from tests.attentions.claims import build, draw

NS, CS = Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF


def combiner(pattern: Pattern, **settings: int | None) -> CombinerAttention:
    attention = build("combiner", pattern, **settings)
    assert isinstance(attention, CombinerAttention)
    return attention


@pytest.mark.parametrize("pattern", [NS, CS])
@pytest.mark.parametrize("span_size", [1, 20, 50])
def test_spans_of_one_and_of_all_are_softmax_attention(pattern: Pattern, span_size: int) -> None:
    attention = combiner(pattern, span_size=span_size)
    softmax = build("softmax", pattern)
    softmax.load_state_dict(attention.state_dict())
    query = draw(0, 2, 20, 16)
    assert_close(attention(query), softmax(query))


@pytest.mark.parametrize("pattern", [NS, CS])
def test_a_span_of_equal_positions_counts_as_one_of_them(pattern: Pattern) -> None:
    attention = combiner(pattern, span_size=4)
    q, k, v = (draw(seed, 1, 2, 9, 8) for seed in range(3))
    for x in (q, k, v):
        x[:, :, :8] = x[:, :, :2].repeat_interleave(4, dim=2)
    # Position 8 is alone in its span, after the two spans of equal ones.
    few_q, few_k, few_v = (x[:, :, [0, 4, 8]] for x in (q, k, v))
    expected = F.scaled_dot_product_attention(few_q, few_k, few_v)[:, :, -1]
    assert_close(attention.mix(q, k, v)[:, :, -1], expected)


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("pattern", [NS, CS])
def test_nothing_of_the_size_of_the_score_table_is_made(pattern: Pattern) -> None:
    length = 4096
    attention = CombinerAttention(16, 1, pattern, max_len=length)
    with Largest() as largest:
        attention(torch.randn(1, length, 16)).sum().backward()
    # 64 keys of the span and 64 summaries for each query.
    assert largest.numel <= length * (64 + 64)


def test_memory_holds_a_span_and_a_summary_of_each_before() -> None:
    attention = combiner(CS, span_size=4)
    state = attention.init_state(3)
    for count in range(1, 22):
        _, state = attention.step(draw(0, 3, 1, 16), state)
        # q, k and v of 4 positions, 2 tensors per complete span, in float64.
        assert state.num_bytes == 3 * (3 * 4 + 2 * (count // 4)) * 16 * 8


def test_the_span_follows_from_max_len() -> None:
    spans = [CombinerAttention(16, 2, NS, max_len=n).span_size for n in (1, 8, 1024, 2000)]
    assert spans == [1, 3, 32, 45]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"span_size": 0}, "span_size must be positive, got 0"),
        ({"span_size": None, "max_len": None}, "needs span_size or max_len, got neither"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, int | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combiner(NS, **settings)
