"""The CPU's own dropout against what dropout is."""

import pytest
import torch
from torch.testing import assert_close

from tasks.backbones.dropout import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.99])
def test_it_drops_a_share_p_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    x = torch.full((1_001, 1_003), 2.0, dtype=dtype)
    y = Dropout(p)(x)
    assert y.dtype == dtype
    dropped = (y == 0).double()
    # A share of 10^6 draws: five deviations are at most 0.0025; whole rows and columns, 0.08.
    assert dropped.mean().item() == pytest.approx(p, abs=0.0025)
    assert (dropped.mean(dim=0) - p).abs().max() < 0.08
    assert (dropped.mean(dim=1) - p).abs().max() < 0.08
    assert_close(y[y != 0].double().unique().item(), 2 / (1 - p), rtol=1e-2, atol=0.0)  # bfloat16


def test_gradients_go_where_values_went() -> None:
    x = torch.ones(7, 3, 5, requires_grad=True)
    y = Dropout(0.5)(x.transpose(0, 2))
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach().transpose(0, 2))


def test_it_repeats_with_the_seed_and_rests_in_evaluation() -> None:
    dropout, x = Dropout(0.3), torch.ones(1_000)
    torch.manual_seed(5)
    first = dropout(x)
    assert not torch.equal(dropout(x), first)
    torch.manual_seed(5)
    assert torch.equal(dropout(x), first)
    assert torch.equal(dropout.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
