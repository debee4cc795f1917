"""What the checks work on: a mechanism in one pattern, drawn inputs, and errors relative to scale.

Shapes: B batch, M query length, N context length, E embed_dim.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attentions.base import Attention, Pattern, UnsupportedPattern
from attentions.registry import AttentionFactory

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Errors up to here are rounding, as a share of the output's size.

Float64 rounds by 1e-16 of a sequence's largest number, which is 1e-13 of the smallest size that
counts (see `errors`); long sums, FFTs and recurrences make it some 1e-12. A leak that can matter in
float32 is above 1e-7: the tolerance lies between, with room on both sides. In float32 the same
account ends at 1e-4 and more, so that a faint leak is not told from rounding.
"""

SHAKE = 0.05
"""Standard deviation of what is added to every parameter after construction.

A bias or a gate that starts at zero would hide what depends on it; training would not.
"""

MAX_SCORES = 2**21
"""Rows x queries x keys of one call: a table of that many numbers and heads stays in memory."""


Inputs = dict[str, Tensor]
"""The arguments of one call by name: query, context and padding masks."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check in one pattern.

    Attributes:
        pattern: The claimed pattern.
        check: The check's name.
        passed: Whether it held.
        worst: The greatest error, as a share of the output's size; None if nothing was measured.
        position: The position of that error, from 0.
        message: After a failure, what happened where, by how much, what it means; else a remark.
        refutes: Whether a failure refutes the claim. Otherwise it is a warning.
    """

    pattern: Pattern
    check: str
    passed: bool
    worst: float | None = None
    position: int | None = None
    message: str = ""
    refutes: bool = True


@dataclass
class Worst:
    """The greatest error of a series of comparisons, and where it was."""

    error: float = 0.0
    row: int = 0
    position: int | None = None
    case: Any = None

    def update(self, errors: Tensor, case: Any = None) -> None:
        """Take in errors (rows, positions) of one comparison, described by `case`."""
        if not errors.numel():
            return
        error, index = errors.flatten().max(dim=0)
        if error > self.error:
            row, position = divmod(int(index), errors.shape[-1])
            self.error, self.row, self.position, self.case = float(error), row, position, case


@dataclass(frozen=True)
class Subject:
    """A mechanism in one pattern, with the sizes at which it is examined.

    Attributes:
        factory: Builds it, as a backbone would.
        pattern: The claimed pattern under examination.
        lengths: Query lengths; every position of each is examined.
        long_len: A length beyond the usual windows and chunks, examined around their borders.
        max_len: Passed to the constructor; longer than any sequence here.
        dtype: Of weights and inputs; a key of `TOLERANCES`.
        one_by_one: Give the module one sample at a time, because it mixes samples.
    """

    factory: AttentionFactory
    pattern: Pattern
    embed_dim: int = 32
    num_heads: int = 4
    max_len: int = 1024
    lengths: tuple[int, ...] = (1, 2, 17, 64, 65, 200)
    long_len: int = 520
    dtype: torch.dtype = torch.float64
    device: str = "cpu"
    seed: int = 0
    one_by_one: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if list(self.lengths) != sorted(self.lengths) or max(self.lengths) >= self.long_len:
            raise ValueError(
                f"lengths must rise and end below long_len = {self.long_len}, got {self.lengths}"
            )
        # Contexts are up to 9 longer than queries; padding makes 130 into 209.
        needed = max(self.long_len + 9, 209)
        if self.max_len < needed:
            raise ValueError(f"max_len must be at least {needed}, got {self.max_len}")

    @property
    def tolerance(self) -> float:
        """See `TOLERANCES`."""
        return TOLERANCES[self.dtype]

    def build(self, *, seed: int | None = None, shake: float = SHAKE, **settings: Any) -> Attention:
        """A fresh instance in evaluation mode, its weights moved off their starting values."""
        torch.manual_seed(self.seed if seed is None else seed)
        common = {"dropout": 0.0, "max_len": self.max_len, "grid": None} | settings
        attention = self.factory(self.embed_dim, self.num_heads, self.pattern, **common)
        attention = attention.to(device=self.device, dtype=self.dtype).eval()
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter.add_(shake * torch.randn_like(parameter))
        return attention

    @cached_property
    def attention(self) -> Attention:
        """The instance that the evaluation checks share."""
        return self.build()

    @cached_property
    def dropout(self) -> float:
        """A rate to train with: 0.5, or 0 where the constructor refuses it."""
        try:
            self.build(dropout=0.5)
        except ValueError:
            return 0.0
        return 0.5

    @cached_property
    def refusal(self) -> UnsupportedPattern | None:
        """What it says at construction if it is not to serve the pattern."""
        try:
            self.build()
        except UnsupportedPattern as error:
            return error
        return None

    def draw(self, *shape: int, stream: int = 0) -> Tensor:
        """Standard normal numbers, the same for the same `stream`."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + stream)
        return torch.randn(*shape, generator=generator, dtype=self.dtype).to(self.device)

    def inputs(self, batch_size: int, length: int, stream: int = 0) -> Inputs:
        """A query (B, M, E) and, in the cross patterns, a context of another length."""
        query = self.draw(batch_size, length, self.embed_dim, stream=stream)
        if not self.pattern.is_cross:
            return {"query": query}
        # Longer than the query, or shorter, or of one position, by turns.
        context_len = length + 9 if length % 2 == 0 else max(1, 2 * length // 3)
        context = self.draw(batch_size, context_len, self.embed_dim, stream=stream + 500_000)
        return {"query": query, "context": context}

    @property
    def query_mask(self) -> str:
        """The argument that masks the query's sequence; in the self patterns that of the keys."""
        return "query_padding_mask" if self.pattern.is_cross else "key_padding_mask"

    @torch.no_grad()
    def run(self, inputs: Inputs, attention: Attention | None = None) -> Tensor:
        """The outputs (B, M, E), a few samples at a time; what has one sample serves for all.

        Raises:
            ValueError: If the output has another shape than the query.
        """
        attention = attention or self.attention
        batch_size = max(len(tensor) for tensor in inputs.values())
        inputs = {name: t.expand(batch_size, *t.shape[1:]) for name, t in inputs.items()}
        query, keys = inputs["query"], inputs.get("context", inputs["query"])
        num_rows = 1 if self.one_by_one else max(1, MAX_SCORES // (query.shape[1] * keys.shape[1]))
        outputs = []
        for start in range(0, batch_size, num_rows):
            part = rows(inputs, slice(start, start + num_rows))
            outputs.append(attention(**part))
            got, expected = tuple(outputs[-1].shape), tuple(part["query"].shape)
            if got != expected:
                raise ValueError(f"the output must have the query's shape {expected}, got {got}")
        return torch.cat(outputs)

    def judge(self, check: str, worst: Worst, tell: Callable[[Worst], str]) -> Finding:
        """A finding that passes if the worst error is rounding; else `tell` says what it is."""
        passed = worst.error <= self.tolerance
        message = "" if passed else tell(worst)
        if not passed and self.dtype is torch.float64 and worst.error < 1e-5:
            message += (
                " (so small an error may be rounding in a narrower type inside the mechanism: "
                "dtype=float32 allows for it)"
            )
        return Finding(self.pattern, check, passed, worst.error, worst.position, message)

    def apart(self) -> "Subject":
        """The same, examined one sample at a time."""
        return dataclasses.replace(self, one_by_one=True)


def errors(actual: Tensor, expected: Tensor) -> Tensor:
    """The difference at each position, as a share of the output's size there: (B, M).

    The size of a position is its largest number, but at least a thousandth of the largest of its
    sequence: an FFT or a long sum rounds relative to that. Where all of it should be zero, it is
    the size of what came instead. What is not a number is infinitely wrong.
    """
    size = expected.abs().amax(dim=-1)
    size = torch.maximum(size, 1e-3 * size.amax(dim=-1, keepdim=True))
    size = torch.where(size == 0, actual.abs().amax(dim=-1), size)
    difference = (actual - expected).abs().amax(dim=-1)
    share = torch.where(difference == 0, 0.0, difference / size)
    return share.nan_to_num(nan=torch.inf, posinf=torch.inf)


def by_how_much(error: float, verb: str = "changes") -> str:
    """An error in words."""
    if error == torch.inf:
        return "becomes infinite or not a number"
    return f"{verb} by {error:.2g} of its size"


def rows(inputs: Inputs, part: slice) -> Inputs:
    """Some of the samples."""
    return {name: tensor[part] for name, tensor in inputs.items()}
