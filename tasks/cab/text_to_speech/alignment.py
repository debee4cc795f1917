"""Which frames belong to which token, learnt from recordings and their texts alone.

A hidden Markov model with one state for each token, left to right, as the flat start of a
recogniser's training: Rabiner, "A tutorial on hidden Markov models", 1989; Montreal's aligner, of
which CAB took the durations, starts so too. A token's frames are normal, with a mean and a diagonal
covariance of its own, and as many as a geometric law gives. From tokens of equal length it is
fitted to the best paths, and these are found anew, a number of times. Nothing is drawn.
Departs from CAB: there is no dictionary, no context and no adaptation; docs/tasks.md says how far
the ends of words are from Montreal's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NUM_CEPSTRA, DELTA_REACH = 13, 2
ROUNDS, FITTED_CLIPS, AT_ONCE = 20, 2000, 32
LEAST_VARIANCE, PRIOR_FRAMES = 0.05, 10.0
"""Of standardised features; a token that is rare is pulled towards all by so many frames."""


@dataclass(frozen=True)
class Clip:
    """A recording and what is said in it.

    Attributes:
        mels: Log-mels (T, F).
        tokens: int64 (N,), at most T.
    """

    mels: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Model:
    """What each of V tokens sounds like.

    Attributes:
        mean: (V, D).
        variance: (V, D).
        length: Mean frames of a token, (V,).
    """

    mean: Tensor
    variance: Tensor
    length: Tensor

    def log_likelihood(self, features: Tensor) -> Tensor:
        """Of frames (T, D) under each token, (T, V)."""
        weight = 1 / self.variance
        squares = features.square() @ weight.mT - 2 * features @ (self.mean * weight).mT
        constant = (self.mean.square() * weight + self.variance.log()).sum(dim=1)
        return -0.5 * (squares + constant + features.shape[1] * math.log(2 * math.pi))


def learn(clips: Sequence[Clip], num_tokens: int, rounds: int = ROUNDS) -> Model:
    """A model fitted to at most FITTED_CLIPS of the clips, spread evenly.

    Args:
        clips: Of the training split.
        num_tokens: Token numbers are below it.
        rounds: How often it is fitted.
    """
    chosen = np.unique(np.linspace(0, len(clips) - 1, FITTED_CLIPS).astype(int))
    clips = [clips[i] for i in chosen]
    features = [describe(clip.mels) for clip in clips]
    paths = [uniform(clip) for clip in clips]
    for _ in range(rounds):
        model = _fit(features, clips, paths, num_tokens)
        paths = _align(model, clips, features)
    return _fit(features, clips, paths, num_tokens)


def align(model: Model, clips: Sequence[Clip]) -> list[np.ndarray]:
    """How many frames each token of the clips has, int64 (N,), at least one."""
    return _align(model, clips, None)


def uniform(clip: Clip) -> np.ndarray:
    """Durations as equal as they can be."""
    count = len(clip.tokens)
    return np.diff(np.arange(count + 1) * len(clip.mels) // count)


def describe(mels: np.ndarray) -> Tensor:
    """Cepstra of frames (T, F) with how they change, standardised over the clip, (T, D)."""
    logs = torch.from_numpy(np.asarray(mels, dtype=np.float64))
    num_frames, num_mels = logs.shape
    places = torch.arange(num_mels, dtype=torch.float64)[:, None] + 0.5
    cepstra = logs @ (math.pi / num_mels * places * torch.arange(NUM_CEPSTRA)).cos()
    frames = torch.arange(num_frames)
    later = cepstra[(frames + DELTA_REACH).clamp(max=num_frames - 1)]
    earlier = cepstra[(frames - DELTA_REACH).clamp(min=0)]
    both = torch.cat([cepstra, later - earlier], dim=1)
    return (both - both.mean(dim=0)) / both.std(dim=0, correction=0).clamp(min=1e-6)


def _fit(
    features: Sequence[Tensor],
    clips: Sequence[Clip],
    paths: Sequence[np.ndarray],
    num_tokens: int,
) -> Model:
    tokens = torch.from_numpy(np.concatenate([clip.tokens for clip in clips]))
    lengths = torch.from_numpy(np.concatenate(paths))
    frames = torch.cat(list(features))
    owners = tokens.repeat_interleave(lengths)
    shape = num_tokens, frames.shape[1]
    count = torch.bincount(owners, minlength=num_tokens).double()[:, None]
    total, squares = (
        torch.zeros(shape, dtype=torch.float64).index_add(0, owners, values)
        for values in (frames, frames.square())
    )
    # All frames together have mean 0 and variance 1.
    mean = total / (count + PRIOR_FRAMES)
    second = (squares + PRIOR_FRAMES) / (count + PRIOR_FRAMES)
    times = torch.bincount(tokens, minlength=num_tokens).double()
    usual = lengths.double().mean()
    length = (count[:, 0] + usual) / (times + 1)
    return Model(mean, (second - mean.square()).clamp(min=LEAST_VARIANCE), length)


def _align(
    model: Model, clips: Sequence[Clip], features: Sequence[Tensor] | None
) -> list[np.ndarray]:
    """The best path of each clip; clips of like length together."""
    order = sorted(range(len(clips)), key=lambda i: len(clips[i].mels))
    durations: dict[int, np.ndarray] = {}
    for start in range(0, len(order), AT_ONCE):
        some = order[start : start + AT_ONCE]
        # Of all clips they would be gigabytes.
        described = [describe(clips[i].mels) if features is None else features[i] for i in some]
        found = _best_paths(model, described, [clips[i].tokens for i in some])
        durations |= zip(some, found, strict=True)
    return [durations[i] for i in range(len(clips))]


def _best_paths(
    model: Model, features: Sequence[Tensor], tokens: Sequence[np.ndarray]
) -> list[np.ndarray]:
    num_clips = len(features)
    num_frames = [len(frames) for frames in features]
    num_tokens = [len(text) for text in tokens]
    longest, most = max(num_frames), max(num_tokens)
    emitted = np.zeros((longest, num_clips, most))
    stay, leave = np.zeros((2, num_clips, most))
    for i, (frames, text) in enumerate(zip(features, tokens, strict=True)):
        emitted[: len(frames), i, : len(text)] = model.log_likelihood(frames).numpy()[:, text]
        leaving = (1 / model.length.clamp(min=1.01)).numpy()[text]
        stay[i, : len(text)], leave[i, : len(text)] = np.log1p(-leaving), np.log(leaving)

    score = np.full((num_clips, most), -np.inf)
    score[:, 0] = emitted[0, :, 0]
    came = np.zeros((longest, num_clips, most), dtype=bool)  # from the token before
    moved = np.full((num_clips, most), -np.inf)
    for frame in range(1, longest):
        stayed = score + stay
        moved[:, 1:] = (score + leave)[:, :-1]
        np.greater(moved, stayed, out=came[frame])
        score = np.maximum(moved, stayed) + emitted[frame]

    durations = np.zeros((num_clips, most), dtype=np.int64)
    clip = np.arange(num_clips)
    token = np.array(num_tokens) - 1
    for frame in range(longest - 1, -1, -1):
        there = frame < np.array(num_frames)
        durations[clip, token] += there
        token = token - (came[frame, clip, token] & there)
    return [durations[i, :count] for i, count in enumerate(num_tokens)]
