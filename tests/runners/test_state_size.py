"""What train records of the decoding state, for places and tasks that tell more or less."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from attentions.base import Pattern
from attentions.linear.linear_elu import LinearAttention
from attentions.softmax.softmax import SoftmaxAttention
from runners.records import Measurement
from runners.run import Run
from runners.state_size import add_state_elements
from tasks.base import AttentionSlots, Task

E, H = 8, 2


class Silent(SoftmaxAttention):
    """As a mechanism from outside may be."""

    def memory_elements(self, length: int) -> int:
        raise NotImplementedError("Silent does not say")


class Two(Task):
    """Two places of one pattern and one of another."""

    patterns = frozenset(Pattern)

    def __init__(self, slots: AttentionSlots, max_len: int | None) -> None:
        super().__init__(slots)
        wanted = [Pattern.CAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS]
        self.places = torch.nn.ModuleList(
            slots.build(pattern, embed_dim=E, num_heads=H, max_len=max_len)
            for pattern in [*wanted, Pattern.NONCAUSAL_SELF]
        )


def recorded(
    attention: type, pattern: Any, facts: dict[str, int], max_len: int | None = None
) -> list[Measurement]:
    run = Run("id", OmegaConf.create(), Path())
    add_state_elements(run, Two(AttentionSlots(attention, pattern), max_len), facts)
    return run.measurements


@pytest.mark.parametrize(
    ("attention", "pattern", "facts", "max_len", "expected", "seq_len"),
    [
        (SoftmaxAttention, "causal_self", {"seq_len": 5}, 100, 2 * 2 * 5 * E, 5),
        (SoftmaxAttention, "causal_self", {}, 100, 2 * 2 * 100 * E, 100),
        (SoftmaxAttention, "causal_cross", {"seq_len": 5, "context_len": 7}, None, 2 * 7 * E, 7),
        (SoftmaxAttention, "all", {"seq_len": 5, "context_len": 7}, None, (4 * 5 + 2 * 7) * E, 7),
        (LinearAttention, "all", {"seq_len": 5, "context_len": 7}, None, 3 * E * (E // H + 1), 7),
    ],
)
def test_the_places_that_decode_are_summed_at_the_length_of_the_task(
    attention: type,
    pattern: str,
    facts: dict[str, int],
    max_len: int | None,
    expected: int,
    seq_len: int,
) -> None:
    (found,) = recorded(attention, pattern, facts, max_len)
    assert (found.metric, found.unit, found.direction) == ("state_elements", "elements", "lower")
    assert (found.value, found.seq_len, found.split) == (expected, seq_len, None)


def test_what_is_unknown_has_no_value_and_says_why() -> None:
    (silent,) = recorded(Silent, "causal_self", {"seq_len": 5})
    assert silent.value is None
    assert "states no formula" in silent.comment
    (unmeasured,) = recorded(SoftmaxAttention, "causal_self", {})
    assert unmeasured.value is None
    assert "tells the length" in unmeasured.comment


def test_what_does_not_decode_has_no_row() -> None:
    assert recorded(SoftmaxAttention, "noncausal_self", {"seq_len": 5}) == []
