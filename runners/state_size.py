"""How large the decoding state of the mechanism under test is, in numbers per sequence."""

from collections.abc import Iterable, Mapping
from typing import Any

from attentions.base import Attention
from runners.run import Run
from tasks.base import Task

UNKNOWN = "the mechanism states no formula (memory_elements)"


def state_elements(
    attentions: Iterable[Attention], num_tokens: int, context_len: int | None = None
) -> int | None:
    """The sum of `Attention.state_elements`; None if a mechanism has no such formula.

    Args:
        attentions: Of causal patterns.
        num_tokens: See `Attention.state_elements`.
        context_len: The same, for those of causal cross.
    """
    try:
        return sum(
            attention.state_elements(
                num_tokens, context_len if attention.pattern.is_cross else None
            )
            for attention in attentions
        )
    except NotImplementedError:
        return None


def add_state_elements(run: Run, model: Task, facts: Mapping[str, Any]) -> None:
    """Record what the places under test carry behind a whole sequence of the task.

    Nothing where none of them decodes. The lengths are the data's `seq_len` and `context_len`;
    where these do not tell, the greatest that the place was built for.

    Args:
        facts: See `TaskData.facts`.
    """
    decoding = [place for place in model.slots.under_test if place.pattern.is_causal]
    if not decoding:
        return
    sizes, lengths, comment = [], [], ""
    for place in decoding:
        num_tokens, context_len = (
            facts.get(name) or place.max_len for name in ("seq_len", "context_len")
        )
        length = context_len if place.pattern.is_cross else num_tokens
        if length is None:
            comment = "neither the task nor its backbone tells the length"
            break
        size = state_elements([place], num_tokens or length, context_len)
        if size is None:
            comment = UNKNOWN
            break
        sizes.append(size)
        lengths.append(length)
    run.add(
        "state_elements",
        None if comment else sum(sizes),
        unit="elements",
        direction="lower",
        seq_len=None if comment else max(lengths),
        comment=comment,
    )
