"""ProbSparse attention beyond the contract: its exact limit, its cost, its settings."""

import math

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from attentions.base import Pattern
from attentions.softmax.softmax import SoftmaxAttention
from attentions.sparse.probsparse import ProbSparseAttention, log_count, log_counts
from tests.attentions.claims import draw

NS, NC = Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS


@pytest.mark.parametrize("pattern", [NS, NC])
@pytest.mark.parametrize(("length", "factor"), [(15, 5), (60, 15)])
def test_it_is_softmax_attention_where_every_query_attends(
    pattern: Pattern, length: int, factor: int
) -> None:
    sparse = ProbSparseAttention(16, 2, pattern, factor=factor).double()
    full = SoftmaxAttention(16, 2, pattern).double()
    full.load_state_dict(sparse.state_dict(), strict=False)  # all but the draws
    query, context = draw(1, 3, length, 16), draw(2, 3, 40, 16)
    given = (query, context) if pattern is NC else (query,)
    assert_close(sparse(*given), full(*given), rtol=1e-9, atol=1e-9)  # the same sums


@pytest.mark.parametrize(("factor", "length", "count"), [(5, 1, 1), (5, 15, 15), (5, 168, 30)])
def test_the_counts_are_those_of_the_reference_code(factor: int, length: int, count: int) -> None:
    assert log_count(factor, length) == count


def test_the_counts_of_padded_rows_are_those_without_padding() -> None:
    lengths = torch.arange(0, 200)
    padding = torch.arange(200) >= lengths[:, None]
    expected = [0, *(log_count(3, length) for length in range(1, 200))]
    assert log_counts(3, padding).tolist() == expected


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_nothing_of_the_size_of_the_score_table_is_made() -> None:
    length = 4096
    attention = ProbSparseAttention(16, 1, NS)
    with Largest() as largest:
        attention(torch.randn(1, length, 16)).sum().backward()
    # The scores against the sampled keys: 5 ceil(ln 4096) = 45 for each query.
    assert largest.numel <= length * 45


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_inputs_in_half_precision_stay_finite(dtype: torch.dtype) -> None:
    attention = ProbSparseAttention(16, 2, NS).to(dtype)
    query = (1e3 * torch.randn(2, 64, 16)).to(dtype).requires_grad_()
    output = attention(query)
    output.float().square().mean().backward()
    assert output.isfinite().all()
    assert attention.draws.dtype == torch.int64  # a cast would move the sampled keys


def test_a_factor_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="factor must be positive, got 0"):
        ProbSparseAttention(16, 2, NS, factor=0)


def test_other_seeds_sample_other_keys() -> None:
    draws = [ProbSparseAttention(16, 2, NS, seed=seed).draws for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    remainders = ProbSparseAttention(16, 2, NS, factor=2000).draws % 10
    # 46,000 draws: each tenth is 0.1 with a deviation of 0.0014.
    shares = torch.bincount(remainders) / len(remainders)
    assert (shares - 0.1).abs().max() < 5 * math.sqrt(0.09 / len(remainders))
