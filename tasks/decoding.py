"""Writing token by token: greedy and beam search over any model with a decoding step.

A model is given as `step(tokens (B,), state) -> (logits (B, V), state)`. Nothing is ever computed
twice: a search hands the state on, and beam search reorders it with `State.select`.

Shapes: B batch, K beams, V vocabulary, T tokens written.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor


class Selectable(Protocol):
    """A state whose batch rows can be picked, as `attentions.base.State`."""

    def select(self, rows: Tensor) -> Self:
        """The state of the batch rows `rows` (int64), which may repeat."""
        ...


S = TypeVar("S", bound=Selectable)
Step = Callable[[Tensor, S], tuple[Tensor, S]]


@dataclass(frozen=True)
class Limits:
    """What may be written.

    Attributes:
        eos: The token that ends a sequence.
        pad: The token that fills up ended sequences; never chosen.
        max_len: Most tokens, with `eos`; what has not ended then is cut.
        min_len: Tokens that must stand before `eos`.
        never: Further tokens that are never chosen.
    """

    eos: int
    pad: int
    max_len: int
    min_len: int = 0
    never: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_len < 1 or not 0 <= self.min_len < self.max_len:
            raise ValueError(
                f"decoding needs 0 <= min_len < max_len, got {self.min_len} and {self.max_len}"
            )

    def log_probs(self, logits: Tensor, position: int) -> Tensor:
        """Log-probabilities (B, V), -inf for what may not stand at `position`."""
        forbidden = [self.pad, *self.never]
        if position < self.min_len:
            forbidden.append(self.eos)
        return F.log_softmax(logits.float(), dim=-1).index_fill(
            1, torch.tensor(forbidden, device=logits.device), -torch.inf
        )


class Written(NamedTuple):
    """What a search found.

    Attributes:
        tokens: (B, T), `eos` included, filled up with `pad`.
        log_probs: (B,), the log-probability of each sequence.
    """

    tokens: Tensor
    log_probs: Tensor


def greedy_search(step: Step[S], logits: Tensor, state: S, limits: Limits) -> Written:
    """Always the likeliest token.

    Args:
        step: The model.
        logits: (B, V) after the prompt.
        state: After the prompt; consumed.
        limits: What may be written.
    """
    total = torch.zeros(len(logits), device=logits.device)
    has_ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    tokens: list[Tensor] = []
    while True:
        log_prob, token = limits.log_probs(logits, len(tokens)).max(dim=-1)
        total += log_prob.masked_fill(has_ended, 0.0)
        token = token.masked_fill(has_ended, limits.pad)
        has_ended |= token == limits.eos
        tokens.append(token)
        if len(tokens) == limits.max_len or has_ended.all():
            return Written(torch.stack(tokens, dim=1), total)
        logits, state = step(token, state)


def beam_search(
    step: Step[S],
    logits: Tensor,
    state: S,
    limits: Limits,
    *,
    num_beams: int,
    length_penalty: float = 1.0,
) -> Written:
    """The best of the sequences found by following the `num_beams` likeliest beginnings.

    A sequence scores log-probability / length ** length_penalty, its length counted with `eos`. An
    item of the batch is searched until it has `num_beams` ended sequences or `max_len` is reached,
    where the unended ones are cut and count as they are. With one beam this is greedy search.

    Args:
        step: The model.
        logits: (B, V) after the prompt.
        state: After the prompt; consumed.
        limits: What may be written.
        num_beams: K.
        length_penalty: 0 compares whole log-probabilities and so favours short sequences, 1
            compares means per token.

    Raises:
        ValueError: If `num_beams` is not positive.
    """
    if num_beams < 1:
        raise ValueError(f"num_beams must be positive, got {num_beams}")
    batch_size, vocab_size = logits.shape
    device = logits.device
    first_rows = torch.arange(batch_size, device=device)[:, None] * num_beams  # (B, 1)
    copies = torch.arange(batch_size, device=device).repeat_interleave(num_beams)
    logits, state = logits[copies], state.select(copies)
    # All beams of an item begin alike: only the first may be continued at first.
    live = torch.full((batch_size, num_beams), -torch.inf, device=device)
    live[:, 0] = 0.0
    tokens = torch.empty(batch_size, num_beams, 0, dtype=torch.long, device=device)
    ended = _Ended.none(batch_size, num_beams, limits, device)
    for position in range(limits.max_len):
        log_probs = limits.log_probs(logits, position).view(batch_size, num_beams, vocab_size)
        totals = (live[:, :, None] + log_probs).flatten(1)  # (B, K * V)
        # Each beam has one continuation that ends, so that of 2 K at least K do not.
        best, index = totals.topk(2 * num_beams)
        parent, token = index // vocab_size, index % vocab_size
        grown = torch.cat([_pick(tokens, parent), token[:, :, None]], dim=2)  # (B, 2 K, T)
        is_end = token == limits.eos
        is_last = position + 1 == limits.max_len
        # An end counts only among the K best, so that a single beam ends just where greedy does.
        ends = (is_end | is_last)[:, :num_beams]
        ended = ended.add(
            grown[:, :num_beams], best[:, :num_beams].masked_fill(~ends, -torch.inf), length_penalty
        )
        if is_last or ended.is_full.all():
            break
        live, order = best.masked_fill(is_end, -torch.inf).topk(num_beams)
        tokens, parent = _pick(grown, order), parent.gather(1, order)
        rows = (first_rows + parent).flatten()
        logits, state = step(tokens[:, :, -1].flatten(), state.select(rows))
    return ended.best()


@dataclass(frozen=True)
class _Ended:
    """The K best ended sequences of each item so far.

    Attributes:
        tokens: (B, K, max_len).
        log_probs: (B, K).
        scores: (B, K), -inf where there is none yet.
        pad: Fills up `tokens`.
    """

    tokens: Tensor
    log_probs: Tensor
    scores: Tensor
    pad: int

    @classmethod
    def none(cls, batch_size: int, num_beams: int, limits: Limits, device: torch.device) -> Self:
        shape = (batch_size, num_beams)
        tokens = torch.full((*shape, limits.max_len), limits.pad, device=device)
        nothing = torch.full(shape, -torch.inf, device=device)
        return cls(tokens, nothing, nothing, limits.pad)

    @property
    def is_full(self) -> Tensor:
        """Whether each item has all K: its search is over. Bool (B,)."""
        return self.scores.isfinite().all(dim=1)

    def add(self, tokens: Tensor, log_probs: Tensor, length_penalty: float) -> Self:
        """With further sequences (B, K, T); those of log-probability -inf are none."""
        # An item whose search is over waits for the others: its result is not theirs to change.
        log_probs = log_probs.masked_fill(self.is_full[:, None], -torch.inf)
        length = tokens.shape[2]
        tokens = F.pad(tokens, (0, self.tokens.shape[2] - length), value=self.pad)
        scores = torch.cat([self.scores, log_probs / length**length_penalty], dim=1)
        scores, kept = scores.topk(self.scores.shape[1])
        return type(self)(
            _pick(torch.cat([self.tokens, tokens], dim=1), kept),
            torch.cat([self.log_probs, log_probs], dim=1).gather(1, kept),
            scores,
            self.pad,
        )

    def best(self) -> Written:
        tokens = self.tokens[:, 0]
        longest = int((tokens != self.pad).sum(dim=1).max())
        return Written(tokens[:, :longest], self.log_probs[:, 0])


def _pick(tokens: Tensor, beams: Tensor) -> Tensor:
    """Beams (B, K') of tokens (B, K, T): (B, K', T)."""
    return tokens.gather(1, beams[:, :, None].expand(-1, -1, tokens.shape[2]))
