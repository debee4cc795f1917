"""Greedy and beam search on a model small enough to search by hand.

Its logits are a table: random, but a function of the whole prefix, so that a search that hands on
the wrong state, or the right one to the wrong beam, reads the wrong row.
"""

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.decoding import Limits, Written, beam_search, greedy_search

EOS, PAD, BOS = 0, 1, 2
VOCAB = 5  # the three marks and two words
MAX_LEN = 4
LIMITS = Limits(eos=EOS, pad=PAD, max_len=MAX_LEN, never=(BOS,))


@dataclass(frozen=True)
class Prefix:
    """The state of the toy model: which item of the batch this is, and the tokens so far."""

    item: Tensor
    tokens: Tensor

    def select(self, rows: Tensor) -> "Prefix":
        return Prefix(self.item[rows], self.tokens[rows])


class Table:
    """Logits by (item, prefix)."""

    def __init__(self, seed: int, num_items: int, spread: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        num_prefixes = VOCAB**MAX_LEN * 2  # prefixes are numbers in base VOCAB with a leading 1
        self.logits = spread * torch.randn(num_items, num_prefixes, VOCAB, generator=generator)

    def read(self, state: Prefix) -> Tensor:
        code = torch.ones_like(state.item)
        for token in state.tokens.T:
            code = code * VOCAB + token
        return self.logits[state.item, code]

    def begin(self, items: list[int] | None = None) -> tuple[Tensor, Prefix]:
        item = torch.arange(len(self.logits)) if items is None else torch.tensor(items)
        state = Prefix(item, torch.empty(len(item), 0, dtype=torch.long))
        return self.read(state), state

    def step(self, token: Tensor, state: Prefix) -> tuple[Tensor, Prefix]:
        state = Prefix(state.item, torch.cat([state.tokens, token[:, None]], dim=1))
        return self.read(state), state

    def log_prob(self, item: int, tokens: tuple[int, ...]) -> float:
        """Of one whole sequence, read off one entry at a time."""
        total = 0.0
        for end, token in enumerate(tokens):
            state = Prefix(torch.tensor([item]), torch.tensor([tokens[:end]], dtype=torch.long))
            total += self.read(state).log_softmax(-1)[0, token].item()
        return total


def sequences() -> list[tuple[int, ...]]:
    """Every sequence that may be written: ended, or cut at MAX_LEN."""
    ended = [(*w, EOS) for n in range(MAX_LEN) for w in itertools.product((3, 4), repeat=n)]
    return [*ended, *itertools.product((3, 4), repeat=MAX_LEN)]


def unpadded(written: Written) -> list[tuple[int, ...]]:
    return [tuple(token for token in row if token != PAD) for row in written.tokens.tolist()]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]))
def test_a_beam_as_wide_as_the_space_finds_the_best_of_all_sequences(
    seed: int, penalty: float
) -> None:
    table = Table(seed, num_items=3)
    logits, state = table.begin()
    everything = sequences()
    written = beam_search(
        table.step, logits, state, LIMITS, num_beams=len(everything), length_penalty=penalty
    )
    for item, found in enumerate(unpadded(written)):
        best = max(everything, key=lambda s: table.log_prob(item, s) / len(s) ** penalty)
        assert found == best
        # float32 sums of at most four terms
        assert written.log_probs[item].item() == pytest.approx(table.log_prob(item, best), abs=1e-4)


def searched_by_hand(table: Table, item: int, num_beams: int, penalty: float) -> tuple[int, ...]:
    """Beam search with sorted lists: all continuations of the live beginnings, best first."""
    live: list[tuple[int, ...]] = [()]
    ended: list[tuple[int, ...]] = []
    while len(ended) < num_beams:
        grown = [(*tokens, token) for tokens in live for token in (EOS, 3, 4)]
        grown.sort(key=lambda tokens: table.log_prob(item, tokens), reverse=True)
        is_last = len(grown[0]) == MAX_LEN
        ended += [tokens for tokens in grown[:num_beams] if is_last or tokens[-1] == EOS]
        if is_last:
            break
        live = [tokens for tokens in grown if tokens[-1] != EOS][:num_beams]
    return max(ended, key=lambda tokens: table.log_prob(item, tokens) / len(tokens) ** penalty)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), num_beams=st.integers(2, 4))
def test_beams_that_end_leave_their_places_to_others(seed: int, num_beams: int) -> None:
    table = Table(seed, num_items=2)
    table.logits[:, :, EOS] += 1.0  # often all of the best candidates end
    written = beam_search(
        table.step, *table.begin(), LIMITS, num_beams=num_beams, length_penalty=2.0
    )
    expected = [searched_by_hand(table, item, num_beams, 2.0) for item in range(2)]
    assert unpadded(written) == expected


def test_a_beginning_behind_all_the_ends_stays_alive() -> None:
    table = Table(seed=0, num_items=1)
    table.logits[:] = -9.0
    table.logits[0, :, [3, 4]] = 0.0
    root, three, four = 1, VOCAB + 3, VOCAB + 4
    choices = torch.tensor([[-9.0, 0.2, 0.0], [0.9, 1.0, -9.0], [0.9, 0.6, -9.0]])
    for prefix, logits in zip((root, three, four), choices, strict=True):
        table.logits[0, prefix, [EOS, 3, 4]] = logits
    # Of two tokens: 3 3 (0.29), 3 EOS (0.26), 4 EOS (0.26), 4 3 (0.19), which goes on surely.
    for prefix in (four * VOCAB + 3, (four * VOCAB + 3) * VOCAB + 3):
        table.logits[0, prefix, 3] = 9.0
    written = beam_search(table.step, *table.begin(), LIMITS, num_beams=2, length_penalty=2.0)
    assert unpadded(written) == [(4, 3, 3, 3)]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), penalty=st.sampled_from([0.0, 1.0, 3.0]))
def test_one_beam_is_greedy(seed: int, penalty: float) -> None:
    table = Table(seed, num_items=4)
    greedy = greedy_search(table.step, *table.begin(), LIMITS)
    beam = beam_search(table.step, *table.begin(), LIMITS, num_beams=1, length_penalty=penalty)
    assert unpadded(beam) == unpadded(greedy)
    torch.testing.assert_close(beam.log_probs, greedy.log_probs)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), min_len=st.integers(0, MAX_LEN - 1))
def test_greedy_takes_the_likeliest_token_that_is_allowed(seed: int, min_len: int) -> None:
    table = Table(seed, num_items=2)
    limits = Limits(eos=EOS, pad=PAD, max_len=MAX_LEN, min_len=min_len, never=(BOS,))
    written = greedy_search(table.step, *table.begin(), limits)
    for item, found in enumerate(unpadded(written)):
        prefix: tuple[int, ...] = ()
        while len(prefix) < MAX_LEN and prefix[-1:] != (EOS,):
            allowed = (3, 4) if len(prefix) < min_len else (EOS, 3, 4)
            grown: list[tuple[int, ...]] = [(*prefix, token) for token in allowed]
            prefix = max(grown, key=lambda s: table.log_prob(item, s))
        assert found == prefix
        assert written.log_probs[item].item() == pytest.approx(
            table.log_prob(item, prefix), abs=1e-4
        )


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), num_beams=st.integers(1, 5))
def test_the_items_of_a_batch_are_searched_apart(seed: int, num_beams: int) -> None:
    table = Table(seed, num_items=3)
    together = beam_search(table.step, *table.begin(), LIMITS, num_beams=num_beams)
    apart = [
        unpadded(beam_search(table.step, *table.begin([i]), LIMITS, num_beams=num_beams))[0]
        for i in range(3)
    ]
    assert unpadded(together) == apart


@pytest.mark.parametrize("num_beams", [1, 3])
def test_ends_minimum_and_maximum_length(num_beams: int) -> None:
    table = Table(seed=1, num_items=2)
    table.logits[0, :, EOS] = 9.0  # ends as soon as it may
    table.logits[1, :, EOS] = -9.0  # never ends
    table.logits[:, :, [PAD, BOS]] = 99.0  # likeliest, and never to be written
    limits = Limits(eos=EOS, pad=PAD, max_len=MAX_LEN, min_len=2, never=(BOS,))
    written = beam_search(table.step, *table.begin(), limits, num_beams=num_beams)
    first, second = written.tokens.tolist()
    assert first[2:] == [EOS, PAD]
    assert {*first[:2]} <= {3, 4}
    assert {*second} <= {3, 4}
    assert len(second) == MAX_LEN


def test_a_wider_beam_leaves_the_garden_path() -> None:
    table = Table(seed=0, num_items=1)
    table.logits[:] = 0.0
    one, three, four = 1, VOCAB + 3, VOCAB + 4
    table.logits[0, one, [3, 4, EOS]] = torch.tensor([1.0, 0.9, -9.0])
    table.logits[0, three] = 0.0  # after the likelier beginning nothing is likely
    table.logits[0, four, EOS] = 9.0
    greedy = greedy_search(table.step, *table.begin(), LIMITS)
    beam = beam_search(table.step, *table.begin(), LIMITS, num_beams=2)
    assert unpadded(greedy)[0][0] == 3
    assert unpadded(beam) == [(4, EOS)]
    assert beam.log_probs[0] > greedy.log_probs[0]


def test_a_length_penalty_turns_the_choice_towards_long_sequences() -> None:
    table = Table(seed=0, num_items=1)
    table.logits[:] = -9.0
    table.logits[0, :, EOS] = 0.0
    table.logits[0, :, 3] = 0.5
    lengths = [
        len(
            unpadded(
                beam_search(table.step, *table.begin(), LIMITS, num_beams=8, length_penalty=penalty)
            )[0]
        )
        for penalty in (0.0, 1.0)
    ]
    assert lengths == [1, MAX_LEN]


def test_bad_limits_are_named() -> None:
    with pytest.raises(ValueError, match="0 <= min_len < max_len, got 4 and 4"):
        Limits(eos=EOS, pad=PAD, max_len=4, min_len=4)
    table = Table(seed=0, num_items=1)
    with pytest.raises(ValueError, match="num_beams must be positive, got 0"):
        beam_search(table.step, *table.begin(), LIMITS, num_beams=0)
