"""The six tasks of MAD: tokens, and which token is asked for where.

Source: Poli et al., "Mechanistic Design and Scaling of Hybrid Architectures", ICML 2024,
arXiv:2403.17844, and its code.
Departs from them: the probe of fuzzy recall is always shown before it is asked for (there not
always, so that some answers could not be known); the blanks of selective copying are drawn by the
seed (there by the global state); the bijection of memorization is another one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from tasks.diagnostics.draws import distinct
from tasks.rules.answers import IGNORED

Kind = Literal[
    "in_context_recall",
    "noisy_recall",
    "fuzzy_recall",
    "selective_copying",
    "compression",
    "memorization",
]
MOTIF = 3
"""The greatest number of tokens of a fuzzy key or value."""
FACTS_SEED = 12345
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Settings:
    """One setting of one task.

    Attributes:
        kind: Which of the six.
        vocab_size: V, with all special tokens.
        seq_len: L; recall is read one token later than it is given, so that its rows have L - 1
            tokens, fuzzy ones L.
        num_noise: Tokens of the vocabulary that are noise, in noisy recall.
        noise_share: Of its pairs.
        num_copied: Tokens that selective copying asks for.

    Raises:
        ValueError: If the task does not fit into the vocabulary or the length.
    """

    kind: Kind
    vocab_size: int = 16
    seq_len: int = 128
    num_noise: int = 0
    noise_share: float = 0.0
    num_copied: int = 16

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"mad: kind must be one of {get_args(Kind)}, got {self.kind!r}")
        if (self.num_noise or self.noise_share) and self.kind != "noisy_recall":
            raise ValueError(f"mad: num_noise and noise_share must be 0 in {self.kind}")
        if not 0 <= self.noise_share < 1 or bool(self.noise_share) > bool(self.num_noise):
            raise ValueError(
                "mad: noise_share must be in [0, 1), and num_noise positive with it, "
                f"got {self.noise_share} and {self.num_noise}"
            )
        least, words = {
            "in_context_recall": (4, "2 keys and 2 values"),
            "noisy_recall": (4 + self.num_noise, "2 keys, 2 values and num_noise"),
            "fuzzy_recall": (2 * MOTIF + 1, "3 tokens of keys, 3 of values and the padding"),
            "selective_copying": (3, "a token, the blank and the copy token"),
            "compression": (2, "a token and the compression token"),
            "memorization": (3, "a key, a value and the token between"),
        }[self.kind]
        if self.vocab_size < least:
            raise ValueError(
                f"mad: vocab_size >= {least} must hold in {self.kind} ({words}), "
                f"got {self.vocab_size}"
            )
        least, words = {
            "fuzzy_recall": (6 * MOTIF + 1, "a pair, the probe and it again, and one padding"),
            "selective_copying": (2 * self.num_copied + 2, "2 num_copied + 2"),
            "compression": (2, "a token and the compression token"),
            "memorization": (2, "a pair"),
        }.get(self.kind, (4, "two pairs"))
        if self.seq_len < least:
            raise ValueError(
                f"mad: seq_len >= {least} must hold in {self.kind} ({words}), got {self.seq_len}"
            )
        if self.kind in ("in_context_recall", "noisy_recall", "memorization") and self.seq_len % 2:
            raise ValueError(f"mad: seq_len must be even in {self.kind}, got {self.seq_len}")


class Rows(NamedTuple):
    """Rows of a task.

    Attributes:
        tokens: int32 (rows, N).
        targets: What to answer at each position, int32 (rows, N); `IGNORED` where nothing.
    """

    tokens: Ints
    targets: Ints


def generate(
    seed: int | Sequence[int], count: int, settings: Settings, *, training: bool = True
) -> Rows:
    """`count` rows.

    Args:
        seed: Of the generator.
        count: How many.
        settings: Of the task.
        training: Whether recall asks for every next token, as MAD trains it, and fuzzy keys have 1
            to 3 tokens; else it asks for what can be known, and they have 3.
    """
    return MAKERS[settings.kind](np.random.default_rng(seed), count, settings, training)


def _recall(rng: np.random.Generator, count: int, settings: Settings, training: bool) -> Rows:
    """Pairs of a key and its value, some of them noise; the last repeats a key."""
    known = settings.vocab_size - settings.num_noise
    num_keys, num_pairs = known // 2, settings.seq_len // 2
    keys = rng.integers(num_keys, size=(count, num_pairs), dtype=np.int32)
    # What the first sight of a key draws, drawn beforehand.
    values = rng.integers(num_keys, known, size=(count, num_keys), dtype=np.int32)
    is_noise = rng.random((count, num_pairs), dtype=np.float32) < settings.noise_share
    kept = rng.integers(num_pairs, size=count)
    kept[(kept == num_pairs - 1) & is_noise[:, :-1].all(axis=1)] = 0
    rows = np.arange(count)
    is_noise[rows, kept] = is_noise[:, -1] = False
    seen = np.zeros((count, num_keys), dtype=bool)
    again = np.zeros((count, num_pairs), dtype=bool)
    for i in range(num_pairs - 1):
        again[:, i] = seen[rows, keys[:, i]] & ~is_noise[:, i]
        seen[rows, keys[:, i]] |= ~is_noise[:, i]
    chosen = (rng.random(count) * seen.sum(axis=1)).astype(np.int64)
    keys[:, -1] = (seen.cumsum(axis=1) > chosen[:, None]).argmax(axis=1)
    again[:, -1] = True
    pairs = np.stack([keys, np.take_along_axis(values, keys.astype(np.int64), axis=1)], axis=2)
    if settings.num_noise:
        noise = rng.integers(known, settings.vocab_size, size=pairs.shape, dtype=np.int32)
        pairs = np.where(is_noise[..., None], noise, pairs)
    tokens = pairs.reshape(count, -1)
    answers = np.where(again, pairs[..., 1], IGNORED)
    targets = np.stack([np.full_like(answers, IGNORED), answers], axis=2).reshape(count, -1)
    return _one_later(tokens, targets, training)


def _fuzzy_recall(rng: np.random.Generator, count: int, settings: Settings, training: bool) -> Rows:
    """Keys and values of several tokens; the probe stands somewhere within and at the end."""
    padding = settings.vocab_size - 1
    num_keys = padding // 2
    probe = _motifs(rng, count, num_keys, padding, training)
    probe_code, probe_len = _codes(probe, num_keys), (probe >= 0).sum(axis=1)
    limit = settings.seq_len - probe_len - 2 * MOTIF  # pairs are added below this length
    # At the last place where one surely comes, at the latest.
    place = (rng.random(count) * (settings.seq_len - 2 * probe_len)).astype(np.int64)
    place = np.minimum(place, limit - 2 * MOTIF)
    length, shown = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
    pieces, asked, codes = [], [], []
    while (active := length < limit).any():
        drawn = _motifs(rng, count, num_keys, padding, training)
        due = (length >= place) & ~shown
        drawn[due] = probe[due]
        code = _codes(drawn, num_keys)
        is_probe = code == probe_code
        drawn[is_probe] = probe[is_probe]
        seen = np.zeros(count, dtype=bool)
        for earlier, piece in zip(codes, pieces, strict=True):
            same = earlier == code
            drawn[same] = piece[same]
            seen |= same
        drawn[~active] = -1
        code[~active] = -1
        shown |= is_probe & active
        length += (drawn >= 0).sum(axis=1)
        pieces.append(drawn)
        codes.append(code)
        asked.append(seen & active)
    pieces.append(probe)
    asked.append(np.ones(count, dtype=bool))
    everything = np.concatenate(pieces, axis=1)
    is_answer = np.zeros((count, len(pieces), 2 * MOTIF), dtype=bool)
    is_answer[:, :, MOTIF:] = np.stack(asked, axis=1)[..., None]
    answers = np.where(is_answer.reshape(count, -1), everything, IGNORED)
    # What is there moves to the right, in its order.
    order = np.argsort(everything >= 0, axis=1, kind="stable")[:, -(settings.seq_len + 1) :]
    tokens, targets = (np.take_along_axis(part, order, axis=1) for part in (everything, answers))
    short = settings.seq_len + 1 - tokens.shape[1]
    if short > 0:
        tokens = np.pad(tokens, ((0, 0), (short, 0)), constant_values=-1)
        targets = np.pad(targets, ((0, 0), (short, 0)), constant_values=IGNORED)
    targets[tokens < 0] = IGNORED
    tokens[tokens < 0] = padding
    return _one_later(tokens, targets, training)


def _motifs(
    rng: np.random.Generator, count: int, num_keys: int, padding: int, training: bool
) -> Ints:
    """Keys of tokens below `num_keys` and values of those from there, -1 behind their ends."""
    drawn = np.concatenate(
        [
            distinct(rng, count, num_keys, MOTIF),
            distinct(rng, count, padding - num_keys, MOTIF) + num_keys,
        ],
        axis=1,
    )
    sizes = rng.integers(1, MOTIF + 1, size=(count, 2))
    if not training:
        sizes[:, 0] = MOTIF
    drawn[np.tile(np.arange(MOTIF), 2) >= np.repeat(sizes, MOTIF, axis=1)] = -1
    return drawn


def _codes(motifs: Ints, num_keys: int) -> NDArray[np.int64]:
    """A number for each key."""
    digits = motifs[:, :MOTIF].astype(np.int64) + 1
    return digits @ (num_keys + 1) ** np.arange(MOTIF)


def _one_later(tokens: Ints, targets: Ints, training: bool) -> Rows:
    """Each token is asked for where the one before it is read."""
    return Rows(tokens[:, :-1], (tokens if training else targets)[:, 1:])


def _selective_copying(
    rng: np.random.Generator, count: int, settings: Settings, training: bool
) -> Rows:
    """Tokens among blanks, none of which stands behind the last; then the tokens alone."""
    copied, blank = settings.num_copied, settings.vocab_size - 2
    data = rng.integers(blank, size=(count, copied), dtype=np.int32)
    num_blanks = settings.seq_len - 2 * copied - 1
    before = rng.integers(copied, size=(count, num_blanks))
    counts = np.bincount(
        (before + copied * np.arange(count)[:, None]).ravel(), minlength=copied * count
    )
    places = counts.reshape(count, copied).cumsum(axis=1) + np.arange(copied)
    tokens = np.full((count, settings.seq_len), blank, dtype=np.int32)
    np.put_along_axis(tokens, places, data, axis=1)
    tokens[:, copied + num_blanks] = settings.vocab_size - 1
    targets = np.full_like(tokens, IGNORED)
    targets[:, -copied:] = data
    return Rows(tokens, targets)


def _compression(rng: np.random.Generator, count: int, settings: Settings, training: bool) -> Rows:
    """Random tokens, and one that asks for all of them, itself too."""
    last = settings.vocab_size - 1
    tokens = rng.integers(last, size=(count, settings.seq_len), dtype=np.int32)
    tokens[:, -1] = last
    return Rows(tokens, tokens)


def _memorization(rng: np.random.Generator, count: int, settings: Settings, training: bool) -> Rows:
    """Keys, each before a token at which its value is asked for: the same one in all rows."""
    between = settings.vocab_size - 1
    facts = np.random.default_rng(FACTS_SEED).permutation(np.arange(between // 2, between))
    keys = rng.integers(between // 2, size=(count, settings.seq_len // 2), dtype=np.int32)
    tokens = np.full((count, settings.seq_len), between, dtype=np.int32)
    tokens[:, ::2] = keys
    targets = np.full_like(tokens, IGNORED)
    targets[:, 1::2] = facts[keys]
    return Rows(tokens, targets)


MAKERS: Mapping[str, Callable[[np.random.Generator, int, Settings, bool], Rows]] = {
    "in_context_recall": _recall,
    "noisy_recall": _recall,
    "fuzzy_recall": _fuzzy_recall,
    "selective_copying": _selective_copying,
    "compression": _compression,
    "memorization": _memorization,
}
