"""Casts to float16 and to what has a wider range."""

import pytest
import torch

from attentions.functional.saturated import saturated


def test_float16_ends_at_its_greatest_number() -> None:
    x = torch.tensor([-torch.inf, -1e6, -1.5, 0.0, 65504.0, 1e9])
    expected = torch.tensor([-65504.0, -65504.0, -1.5, 0.0, 65504.0, 65504.0])
    torch.testing.assert_close(saturated(x, torch.float16), expected.half())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_other_types_are_cast_alone(dtype: torch.dtype) -> None:
    x = torch.tensor([-1e6, 1e9])
    assert saturated(x, dtype).equal(x.to(dtype))
