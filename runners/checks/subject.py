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
HALF_TOLERANCES = {torch.float16: 0.1, torch.bfloat16: 0.5}
"""Errors up to here are rounding, as a share of the output's size; in half precision of the largest
output of its sequence, where sums over many positions may round by tens of units in the last place.

Float64 rounds by 1e-16 of a sequence's largest number, which is 1e-13 of the smallest size that
counts (see `errors`); long sums, FFTs and recurrences make it some 1e-12. A leak that can matter in
float32 is above 1e-7: the tolerance lies between, with room on both sides. In float32 the same
account ends at 1e-4 and more, so that a faint leak is not told from rounding.
"""

LEAST = 1e-3
"""The least size of a position, as a share of the largest of its sequence; see `errors`."""

SHAKE = 0.05
"""Standard deviation of what is added to every parameter after construction.

A bias or a gate that starts at zero would hide what depends on it; training would not.
"""

STATE_LENGTHS = (128, 512)
"""Where the size of the decoding state is taken: the usual windows are full by then."""
LONGER = 9
"""A context is by this much longer than its query, where it is not shorter or as long."""
APPENDED = 70
"""The most padding that is appended: more than a chunk of 64."""

FAR = 100
"""From this length on fewer samples, outputs and cuts are tried."""

BARELY = 1e-13
"""A rate of dropout at which nothing falls, so that outputs can be compared, on its own paths."""

MAX_SCORES = 2**21
"""Rows x queries x keys of one call: a table of that many numbers and heads stays in memory."""


Inputs = dict[str, Tensor]
"""The arguments of one call by name: query, context and padding masks."""


class Unexamined(Exception):
    """What a check could not look at, and why: neither for nor against the mechanism."""


@dataclass(frozen=True)
class Mode:
    """How the module is called.

    Attributes:
        name: What a message begins with; empty in evaluation.
        dropout: The rate that it trains with; None in evaluation.
        autocast: The type that autocast computes in, None without.
    """

    name: str = ""
    dropout: float | None = None
    autocast: torch.dtype | None = None


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
        unexamined: What of the check could not be looked at, and why.
    """

    pattern: Pattern
    check: str
    passed: bool
    worst: float | None = None
    position: int | None = None
    message: str = ""
    refutes: bool = True
    unexamined: tuple[str, ...] = ()


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
        lengths: Query lengths; the leak checks try every position of each.
        long_len: A length beyond the usual windows and chunks, examined around their borders and at
            random places.
        max_len: Passed to the constructor; longer than any sequence here.
        dtype: Of weights and inputs; a key of `TOLERANCES`, or of `HALF_TOLERANCES`.
        mode: How the module is called.
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
    mode: Mode = field(default=Mode(), kw_only=True)
    one_by_one: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if list(self.lengths) != sorted(self.lengths) or max(self.lengths) >= self.long_len:
            raise ValueError(
                f"lengths must rise and end below long_len = {self.long_len}, got {self.lengths}"
            )
        needed = max(self.long_len + LONGER + APPENDED, STATE_LENGTHS[-1])
        if self.max_len < needed:
            raise ValueError(f"max_len must be at least {needed}, got {self.max_len}")

    @property
    def tolerance(self) -> float:
        """See `TOLERANCES`."""
        return (TOLERANCES | HALF_TOLERANCES)[self.mode.autocast or self.dtype]

    @property
    def length(self) -> int:
        """The length of what is examined at one length only."""
        return self.lengths[-1]

    def build(self, *, seed: int | None = None, shake: float = SHAKE, **settings: Any) -> Attention:
        """A fresh instance in evaluation mode, its weights moved off their starting values."""
        torch.manual_seed(self.seed if seed is None else seed)
        common = {"dropout": 0.0, "max_len": self.max_len, "grid": None} | settings
        attention = self.factory(self.embed_dim, self.num_heads, self.pattern, **common)
        attention = attention.to(device=self.device, dtype=self.dtype).eval()
        with torch.no_grad():
            for parameter in attention.parameters():
                if parameter.requires_grad:  # what does not train stays as it was made
                    parameter.add_(shake * torch.randn_like(parameter))
        return attention

    @cached_property
    def attention(self) -> Attention:
        """The instance that the checks share, in the subject's mode."""
        rate = self.mode.dropout
        return self.build(dropout=rate or 0.0).train(rate is not None)

    @cached_property
    def dropout(self) -> float:
        """A rate to train with: 0.5, or 0 where the constructor refuses it."""
        try:
            self.build(dropout=0.5)
        except ValueError:
            return 0.0
        return 0.5

    @cached_property
    def draws(self) -> bool:
        """Whether a call in training draws at random even without dropout."""
        subject = dataclasses.replace(self, mode=Mode(dropout=0.0))
        inputs = subject.inputs(2, self.long_len)
        first, second = (subject.run(inputs, seed=self.seed + number) for number in (0, 1))
        return bool(subject.errors(first, second).max() > self.tolerance)

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
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return drawn.to(self.device, self.dtype)

    def places(self, length: int, number: int) -> list[int]:
        """Positions from 1 to `length` - 1 in random order, the same for the same seed."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + length)
        return (1 + torch.randperm(length - 1, generator=generator)[:number]).tolist()

    def inputs(
        self, batch_size: int, length: int, stream: int = 0, context_len: int | None = None
    ) -> Inputs:
        """A query (B, M, E) and, in the cross patterns, a context, by default of another length."""
        query = self.draw(batch_size, length, self.embed_dim, stream=stream)
        if not self.pattern.is_cross:
            return {"query": query}
        if context_len is None:  # longer than the query, or shorter, by turns
            context_len = length + LONGER if length % 2 == 0 else max(1, 2 * length // 3)
        context = self.draw(batch_size, context_len, self.embed_dim, stream=stream + 500_000)
        return {"query": query, "context": context}

    def context_lens(self, length: int) -> tuple[int | None, ...]:
        """What `inputs` is to be tried with: another length than the query's, and the same.

        Where they agree, a mask of one sequence fits the other, and a causal mask fits the pair.
        """
        if not self.pattern.is_cross or length == self.long_len:
            return (None,)
        return (None, length) if self.mode == Mode() else (length,)

    @property
    def query_mask(self) -> str:
        """The argument that masks the query's sequence; in the self patterns that of the keys."""
        return "query_padding_mask" if self.pattern.is_cross else "key_padding_mask"

    @torch.no_grad()
    def run(
        self, inputs: Inputs, attention: Attention | None = None, *, seed: int | None = None
    ) -> Tensor:
        """The outputs (B, M, E), a few samples at a time; what has one sample serves for all.

        In training all calls draw from the same seed and leave no trace in the buffers, so that
        inputs of the same shapes meet the same draws.
        """
        attention = attention or self.attention
        batch_size = max(len(tensor) for tensor in inputs.values())
        inputs = {name: t.expand(batch_size, *t.shape[1:]) for name, t in inputs.items()}
        query, keys = inputs["query"], inputs.get("context", inputs["query"])
        num_rows = 1 if self.one_by_one else max(1, MAX_SCORES // (query.shape[1] * keys.shape[1]))
        kept = [(buffer, buffer.clone()) for buffer in attention.buffers() if attention.training]
        outputs = []
        for start in range(0, batch_size, num_rows):
            part = rows(inputs, slice(start, start + num_rows))
            if attention.training:
                torch.manual_seed(self.seed if seed is None else seed)
            # Copies: what overwrites its arguments fails in `keeps_inputs`, and there alone.
            outputs.append(self.call(attention, {name: t.clone() for name, t in part.items()}))
            for buffer, value in kept:
                buffer.copy_(value)
        return torch.cat(outputs)

    def call(self, attention: Attention, inputs: Inputs) -> Tensor:
        """One call in the subject's mode.

        Raises:
            ValueError: If the output is no tensor of the query's shape and type.
        """
        kind = self.mode.autocast
        with torch.autocast(torch.device(self.device).type, dtype=kind, enabled=kind is not None):
            out = attention(**inputs)
        if not isinstance(out, Tensor):
            raise ValueError(f"the output must be a tensor, got {type(out).__name__}")
        query = inputs["query"]
        if out.shape != query.shape:
            raise ValueError(
                f"the output must have the query's shape {tuple(query.shape)}, "
                f"got {tuple(out.shape)}"
            )
        if out.dtype != query.dtype and kind is None:
            raise ValueError(
                f"the output must have the query's type {query.dtype}, got {out.dtype}"
            )
        return out

    def errors(self, actual: Tensor, expected: Tensor, ignored: Tensor | None = None) -> Tensor:
        """See `errors`; in half precision a position is as large as its sequence."""
        in_half = (self.mode.autocast or self.dtype) in HALF_TOLERANCES
        return errors(actual, expected, ignored, least=1.0 if in_half else LEAST)

    def judge(self, check: str, worst: Worst, tell: Callable[[Worst], str]) -> Finding:
        """A finding that passes if the worst error is rounding; else `tell` says what it is."""
        passed = worst.error <= self.tolerance
        message = "" if passed else self.told(tell(worst))
        if not passed and self.dtype is torch.float64 and worst.error < 1e-5:
            message += (
                " (so small an error may be rounding in a narrower type inside the mechanism: "
                "dtype=float32 allows for it)"
            )
        return Finding(self.pattern, check, passed, worst.error, worst.position, message)

    def told(self, message: str) -> str:
        """A message that says in which mode it was, if not in evaluation."""
        return f"{self.mode.name}: {message}" if self.mode.name else message

    def apart(self) -> "Subject":
        """The same, examined one sample at a time."""
        return dataclasses.replace(self, one_by_one=True)

    @property
    def barely(self) -> float:
        """See `BARELY`; 0 where dropout is refused."""
        return BARELY if self.dropout else 0.0

    @property
    def is_drawing(self) -> bool:
        """Whether the same inputs need the same shapes, too, to give the same outputs."""
        return self.mode.dropout is not None and bool(self.attention.trains_otherwise)

    def dropping(self) -> "Subject":
        """The same in training, with dropout if it has any, at the greatest lengths."""
        name = "in training, with dropout" if self.dropout else "in training"
        mode = Mode(name, self.barely)
        return dataclasses.replace(self, mode=mode, lengths=self.lengths[-2:])

    def differing(self) -> "Subject | None":
        """The same in training without dropout; None if that is evaluation, as `training` finds.

        Raises:
            Unexamined: If it draws at random, because other lengths have other draws.
        """
        if not self.attention.trains_otherwise:
            return None
        if self.draws:
            raise Unexamined("sequences of several lengths in training, where it draws at random")
        mode = Mode("in training, without dropout", 0.0)
        return dataclasses.replace(self, mode=mode, lengths=self.lengths[-2:])

    def halved(self) -> "Subject":
        """The same in bfloat16, at lesser lengths."""
        return dataclasses.replace(
            self, dtype=torch.bfloat16, mode=Mode("in bfloat16"), **self._shorter()
        )

    def cast(self) -> "Subject":
        """The same in training under autocast to bfloat16, as bf16-mixed trains."""
        mode = Mode("in training under autocast to bfloat16", self.barely, torch.bfloat16)
        return dataclasses.replace(self, dtype=torch.float32, mode=mode, **self._shorter())

    def _shorter(self) -> dict[str, Any]:
        """Without the longest."""
        if len(self.lengths) == 1:
            return {}
        return {"lengths": self.lengths[-2:-1], "long_len": self.length}


def errors(
    actual: Tensor, expected: Tensor, ignored: Tensor | None = None, least: float = LEAST
) -> Tensor:
    """The difference at each position, as a share of the output's size there: (B, M).

    The size of a position is its largest number, but at least a thousandth of the largest of its
    sequence: an FFT or a long sum rounds relative to that. Where all of it should be zero, it is
    the size of what came instead. What is not a number is infinitely wrong.

    Args:
        ignored: Bool (B or 1, M), True where an output means nothing, whatever stands there.
        least: The least size of a position, as a share of the largest of its sequence.
    """
    actual, expected = (
        x.to(torch.promote_types(x.dtype, torch.float32)) for x in (actual, expected)
    )
    if ignored is not None:
        actual, expected = (x.masked_fill(ignored[..., None], 0.0) for x in (actual, expected))
    size = expected.abs().amax(dim=-1)
    size = torch.maximum(size, least * size.amax(dim=-1, keepdim=True))
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
