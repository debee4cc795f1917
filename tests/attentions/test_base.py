"""What all mechanisms inherit: the initial values of the projections, and the padding masks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from attentions.base import Attention, MultiHeadAttention, Pattern


class Projections(MultiHeadAttention):
    patterns = frozenset({Pattern.NONCAUSAL_SELF})


def test_projections_start_with_cabs_gains() -> None:
    # Xavier-uniform: between -a and a with a = gain sqrt(6 / (fan_in + fan_out)).
    torch.manual_seed(0)
    attention = Projections(64, 4, Pattern.NONCAUSAL_SELF)
    for name, gain in {
        "q_proj": 0.5**0.5,
        "k_proj": 0.5**0.5,
        "v_proj": 0.5**0.5,
        "out_proj": 1.0,
    }.items():
        proj = attention.get_submodule(name)
        assert isinstance(proj, torch.nn.Linear)
        bound = gain * (6 / 128) ** 0.5
        # Of 4,096 numbers the largest is below 0.99 of the bound once in 10^18.
        assert 0.99 * bound < proj.weight.abs().max() <= bound, name
        # Their variance a^2 / 3 is known to 1.4 %, the standard error times five 7 %.
        torch.testing.assert_close(proj.weight.var().item(), bound**2 / 3, rtol=0.07, atol=0.0)
        assert (proj.bias == 0).all()


class Masks(Attention):
    """Keeps the masks that it was given."""

    patterns = frozenset(Pattern)

    def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
        self.given = masks
        return query


FIRST = torch.tensor([[True, False, False, True]])
LAST = torch.tensor([[False, False, True, True]])


@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF])
@pytest.mark.parametrize(
    ("query_mask", "key_mask", "both"),
    [(FIRST, LAST, FIRST | LAST), (FIRST, None, FIRST), (None, LAST, LAST), (None, None, None)],
)
def test_a_position_of_one_sequence_is_padding_if_either_mask_says_so(
    pattern: Pattern, query_mask: Tensor | None, key_mask: Tensor | None, both: Tensor | None
) -> None:
    attention = Masks(8, 2, pattern)
    attention(torch.ones(1, 4, 8), query_padding_mask=query_mask, key_padding_mask=key_mask)
    for given in attention.given.values():
        assert (given is None) == (both is None)
        assert both is None or torch.equal(given, both)


def test_two_sequences_keep_their_own_masks() -> None:
    attention = Masks(8, 2, Pattern.CAUSAL_CROSS)
    x = torch.ones(1, 4, 8)
    attention(x, x, query_padding_mask=FIRST, key_padding_mask=LAST)
    assert torch.equal(attention.given["query_padding_mask"], FIRST)
    assert torch.equal(attention.given["key_padding_mask"], LAST)
