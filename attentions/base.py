"""The contract of an attention mechanism: patterns, checks, projections, decoding state.

Shapes: B batch, H heads, M query length, N context length, D head_dim, E embed_dim.
"""

import difflib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from typing import Any, ClassVar, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.functional.positions import rotate
from attentions.functional.precision import full_precision, in_full


class Pattern(StrEnum):
    """What output position i may depend on: CAB's two axes, self or cross, noncausal or causal.

    In the causal cross pattern the whole context is visible; only later *queries* are hidden.
    """

    NONCAUSAL_SELF = "noncausal_self"
    CAUSAL_SELF = "causal_self"
    NONCAUSAL_CROSS = "noncausal_cross"
    CAUSAL_CROSS = "causal_cross"

    @property
    def is_causal(self) -> bool:
        """Whether later queries are hidden."""
        return self in (Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS)

    @property
    def is_cross(self) -> bool:
        """Whether keys and values come from a second sequence, the context."""
        return self in (Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS)

    @property
    def short(self) -> str:
        """CAB's abbreviation: NS, CS, NC or CC."""
        return "".join(word[0] for word in self.value.split("_")).upper()

    @classmethod
    def _missing_(cls, value: object) -> "Pattern":
        known = [pattern.value for pattern in cls]
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown pattern {str(value)!r}{hint} (known: {', '.join(known)})")


class UnsupportedPattern(ValueError):
    """A pattern was asked of a mechanism, or of a task, that does not have it."""

    def __init__(self, who: str, asked: Pattern, has: frozenset[Pattern], reason: str = "") -> None:
        offered = ", ".join(pattern for pattern in Pattern if pattern in has)
        why = f" ({reason})" if reason else ""
        super().__init__(f"{who} has no {asked}{why}; it has: {offered}")


class Unavailable(RuntimeError):
    """This machine lacks what was asked for: a package, a kernel, a device, a network."""


@dataclass(frozen=True)
class State:
    """What a causal attention carries from token to token.

    Attributes:
        position: How many queries have been answered.
        tensors: The memory, every tensor with the batch as its first dimension.
    """

    position: int = 0
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def select(self, rows: Tensor) -> "State":
        """The state of the batch rows `rows` (int64), as a beam search reorders them."""
        return State(self.position, {name: t[rows] for name, t in self.tensors.items()})

    @property
    def num_bytes(self) -> int:
        """The size of the memory."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


class Attention(nn.Module):
    """Maps a query (B, M, E), and in the cross patterns a context (B, N, E), to (B, M, E).

    Projections are included. A subclass claims its `patterns` and writes `attend`, and for the
    causal patterns `init_state`, `step` and `prefill`; `forward` checks the arguments first.

    Args:
        embed_dim: Width E of query, context and output.
        num_heads: Number of heads H; must divide `embed_dim`.
        pattern: The one pattern that this module serves.
        dropout: Probability in training; on the attention weights where there are any, else on
            the mixed values.
        max_len: The greatest length of query or context that will be seen, for the mechanisms
            whose parameters or constants depend on it.
        grid: (height, width) of image inputs, for the mechanisms with 2-D neighbourhoods.
        layer: The depth of the place in its backbone, from 0, for those that differ by layer.
        num_layers: How many such places the backbone has one after another; None if unknown.
        backend: The kernels of the parallel form: "torch" or one of `backends`. Decoding is
            torch's in all.

    Raises:
        UnsupportedPattern: If `pattern` is not among the claimed `patterns`.
        Unavailable: If this machine lacks the packages of `backend`.
        ValueError: If a size is not positive or `num_heads` does not divide `embed_dim`.
    """

    patterns: ClassVar[frozenset[Pattern]] = frozenset()
    """The honest claim, which `attnbench verify` tests."""
    refuses: ClassVar[Mapping[Pattern, str]] = {}
    """Why an unclaimed pattern is not served, in half a line."""
    backends: ClassVar[Mapping[str, frozenset[Pattern]]] = {}
    """The kernels beside torch's, each with the patterns whose parallel form it computes."""
    undecayed: ClassVar[Mapping[str, float]] = {}
    """Its parameters, or modules, that train without weight decay: the greatest rate of each."""
    mixes: ClassVar[bool] = True
    """False only for the control that moves nothing between positions."""
    trains_otherwise: str = ""
    """Why outputs in training differ from those of evaluation beyond dropout, in half a line."""
    auxiliary_loss: Tensor | None = None
    """What a training pass adds to the loss of the task, as a mean over layers; None if nothing."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        dropout: float = 0.0,
        max_len: int | None = None,
        grid: tuple[int, int] | None = None,
        layer: int = 0,
        num_layers: int | None = None,
        backend: str = "torch",
    ) -> None:
        super().__init__()
        pattern = Pattern(pattern)
        if pattern not in self.patterns:
            raise UnsupportedPattern(
                type(self).__name__, pattern, self.patterns, self.refuses.get(pattern, "")
            )
        if embed_dim < 1 or num_heads < 1:
            self._fail(f"embed_dim and num_heads must be positive, got {embed_dim} and {num_heads}")
        if embed_dim % num_heads:
            self._fail(f"num_heads must divide embed_dim, got {num_heads} and {embed_dim}")
        if not 0.0 <= dropout < 1.0:
            self._fail(f"dropout must be in [0, 1), got {dropout}")
        if max_len is not None and max_len < 1:
            self._fail(f"max_len must be positive, got {max_len}")
        if layer < 0:
            self._fail(f"layer must not be negative, got {layer}")
        if num_layers is not None and layer >= num_layers:
            self._fail(f"layer must be below num_layers, got {layer} and {num_layers}")
        kernels = ["torch", *(name for name in self.backends if pattern in self.backends[name])]
        if backend not in kernels:
            self._fail(f"backend must be {' or '.join(kernels)} in {pattern}, got {backend!r}")
        if backend == "fla" and find_spec("fla") is None:
            raise Unavailable("backend fla needs a package: pip install 'attnbench[fla]'")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.pattern = pattern
        self.dropout = dropout
        self.max_len = max_len
        self.grid = grid
        self.layer = layer
        self.num_layers = num_layers
        self.backend = backend

    def forward(
        self,
        query: Tensor,
        context: Tensor | None = None,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Check the arguments and attend.

        Args:
            query: (B, M, E).
            context: (B, N, E) in the cross patterns, None in the self patterns.
            query_padding_mask: Bool (B, M), True where the query is padding. Outputs there are
                finite and mean nothing.
            key_padding_mask: Bool (B, N), True where the key is padding and is ignored. In the
                self patterns it covers the one sequence, and one mask serves for both (two are
                joined by OR).

        Returns:
            (B, M, E).

        Raises:
            ValueError: If a shape, a type or the presence of `context` is wrong, or `attend`
                returns anything else than (B, M, E).
        """
        self._check_inputs(query, context, query_padding_mask, key_padding_mask)
        if context is None:
            context = query
            masks = [m for m in (query_padding_mask, key_padding_mask) if m is not None]
            if masks:
                query_padding_mask = key_padding_mask = torch.stack(masks).any(dim=0)
        output: object = self.attend(
            query,
            context,
            query_padding_mask=query_padding_mask,
            key_padding_mask=key_padding_mask,
        )
        expected = tuple(query.shape)
        if not isinstance(output, Tensor) or output.shape != expected:
            self._fail_returned("attend", f"(batch, length, embed_dim) = {expected}", output)
        return output

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """The mechanism itself, on checked arguments; `context` is `query` in the self patterns."""
        raise NotImplementedError

    def init_state(
        self,
        batch_size: int,
        context: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> State:
        """The state before the first token; in causal cross it has absorbed the whole context.

        Args:
            batch_size: B.
            context: (B, N, E) in causal cross, None in causal self.
            key_padding_mask: Bool (B, N), True where the context is padding.

        Raises:
            ValueError: In the noncausal patterns, which have no decoding, or on a wrong shape.
        """
        raise NotImplementedError(f"{type(self).__name__} has no decoding state")

    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """Answer one more token: query (B, 1, E) to (B, 1, E), without gradients.

        The given state is consumed: its tensors may be overwritten. To branch, `select` first.
        """
        raise NotImplementedError(f"{type(self).__name__} has no decoding step")

    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """Answer a whole prompt (B, M, E) in the parallel form, from a state of position 0."""
        raise NotImplementedError(f"{type(self).__name__} has no prefill")

    def state_elements(self, num_tokens: int, context_len: int | None = None) -> int:
        """How many numbers per sequence are carried from token to token, by formula.

        Of what grows with the tokens the part that is filled counts, whatever room there is for
        more; what has a fixed size counts whole from the first token on.

        Args:
            num_tokens: How many queries have been answered.
            context_len: N of a context without padding in causal cross, None in causal self.

        Raises:
            UnsupportedPattern: In the noncausal patterns, which have no decoding.
            NotImplementedError: If the mechanism has no such formula.
            ValueError: If a length is not positive, or the context's given or missing wrongly.
        """
        if not self.pattern.is_causal:
            causal = frozenset(p for p in self.patterns if p.is_causal)
            reason = "only causal patterns decode"
            name = f"the decoding state of {type(self).__name__}"
            raise UnsupportedPattern(name, self.pattern, causal, reason)
        if self.pattern.is_cross != (context_len is not None):
            needs = "needs a" if self.pattern.is_cross else "takes no"
            self._fail(f"{self.pattern} {needs} context_len, got {context_len}")
        for name, value in (("num_tokens", num_tokens), ("context_len", context_len)):
            if value is not None and value < 1:
                self._fail(f"{name} must be positive, got {value}")
        return self.memory_elements(num_tokens if context_len is None else context_len)

    def memory_elements(self, length: int) -> int:
        """The formula of `state_elements`, of what is carried after at least one token.

        Args:
            length: N, the tokens so far in causal self, and in causal cross the context's length.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how large its state is")

    def _fail(self, message: str) -> NoReturn:
        raise ValueError(f"{type(self).__name__}: {message}")

    def _fail_returned(self, method: str, expected: str, got: object) -> NoReturn:
        """What a mechanism's own `method` returned is not the tensor that was expected."""
        shape = f" of {tuple(got.shape)}" if isinstance(got, Tensor) else ""
        self._fail(f"{method} must return one tensor {expected}, got {type(got).__name__}{shape}")

    def _check_inputs(
        self,
        query: Tensor,
        context: Tensor | None,
        query_padding_mask: Tensor | None,
        key_padding_mask: Tensor | None,
    ) -> None:
        self._check_sequence("query", query)
        if self.pattern.is_cross and context is None:
            self._fail(f"{self.pattern} needs a context, got None")
        if not self.pattern.is_cross and context is not None:
            self._fail(f"{self.pattern} takes no context, got one of {tuple(context.shape)}")
        if context is not None:
            self._check_sequence("context", context)
            if context.shape[0] != query.shape[0]:
                self._fail(
                    f"context must have the query's batch size {query.shape[0]}, "
                    f"got {context.shape[0]}"
                )
        keys = query if context is None else context
        self._check_mask("query_padding_mask", "query", query_padding_mask, query)
        self._check_mask("key_padding_mask", "context", key_padding_mask, keys)

    def _check_sequence(self, name: str, sequence: Tensor) -> None:
        if sequence.dim() != 3 or sequence.shape[-1] != self.embed_dim:
            self._fail(
                f"{name} must be (batch, length, embed_dim = {self.embed_dim}), "
                f"got {tuple(sequence.shape)}"
            )
        if sequence.shape[1] == 0:
            self._fail(f"{name} must have at least one position, got {tuple(sequence.shape)}")

    def _check_mask(self, name: str, of: str, mask: Tensor | None, sequence: Tensor) -> None:
        if mask is None:
            return
        if mask.dtype != torch.bool:
            self._fail(f"{name} must be bool with True for padding, got {mask.dtype}")
        if mask.shape != sequence.shape[:2]:
            self._fail(
                f"{name} must be (batch, {of} length) = {tuple(sequence.shape[:2])}, "
                f"got {tuple(mask.shape)}"
            )

    def _check_decoding(
        self, batch_size: int, context: Tensor | None, key_padding_mask: Tensor | None
    ) -> None:
        if not self.pattern.is_causal:
            self._fail(f"{self.pattern} has no decoding state; only causal patterns decode")
        if context is None and key_padding_mask is not None:
            self._fail("key_padding_mask without a context: a decoding prompt has no padding")
        # The queries are still to come: one empty position stands for them in the checks.
        query = torch.empty(batch_size, 1, self.embed_dim, device="meta")
        self._check_inputs(query, context, None, key_padding_mask)

    def _check_step(self, query: Tensor) -> None:
        self._check_sequence("query", query)
        if query.shape[1] != 1:
            self._fail(f"a step takes one token, got {query.shape[1]}")

    def _check_prefill(self, query: Tensor, state: State) -> None:
        self._check_sequence("query", query)
        if state.position:
            self._fail(f"prefill starts from position 0, got a state at {state.position}")


class MultiHeadAttention(Attention):
    """Attention with query, key, value and output projections; a mechanism writes `mix`.

    For decoding, a mechanism also writes `absorb` (put keys and values into the memory) and
    `read` (answer queries from the memory). Causal cross absorbs the context once; causal self
    absorbs each token before it answers it.

    Args:
        rotary: Base of rotary positions (10,000 in their paper), by which q and k are turned; None
            for none. For the mechanisms that have `takes_rotary`, in the self patterns.
    """

    drops_weights: ClassVar[bool] = False
    """Whether `mix` applies the dropout itself, to its attention weights."""
    full_precision: ClassVar[bool] = False
    """Whether `mix`, `absorb` and `read` compute in float32 at least, whatever the inputs and
    autocast: for sums over many positions, which overflow float16 and stop growing in bfloat16."""
    any_width: ClassVar[bool] = False
    """Whether projections give `num_heads` heads of any width, not any number of head_dim wide."""
    takes_rotary: ClassVar[bool] = False
    """Whether q and k meet in dot products alone, so that both can be turned by their positions."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        rotary: float | None = None,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if self.backend == "flex" and self.drops_weights and self.dropout:
            self._fail(f"backend flex drops no weights: dropout must be 0, got {self.dropout}")
        if rotary is not None:
            self._check_rotary(rotary)
        self.rotary = rotary
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_projections()

    def reset_projections(self) -> None:
        """Xavier-uniform with CAB's gains (cab: 1/sqrt 2 for q, k, v; 1 for out), zero biases."""
        for proj in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(proj.weight, gain=2**-0.5)
            nn.init.zeros_(proj.bias)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Map q (B, H, M, D), k and v (B, H, N, D) to (B, H, M, D).

        Args:
            query_padding_mask: Bool (B, M), True where the query is padding: for mechanisms that
                pool over queries.
            key_padding_mask: Bool (B, N), True where the key is padding and is ignored.
        """
        raise NotImplementedError

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The memory after the keys and values (B, H, N, D) from `position` on; {} starts anew."""
        raise NotImplementedError(f"{type(self).__name__} has no decoding state")

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Answer queries (B, H, M, D) that stand at `position` and after; returns (B, H, M, D)."""
        raise NotImplementedError(f"{type(self).__name__} has no decoding step")

    def attend(
        self,
        query: Tensor,
        context: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Project, mix, and project back."""
        q, k, v = self._queries_keys_values(query, context)
        with self._precision(q):
            mixed = self.mix(
                q, k, v, query_padding_mask=query_padding_mask, key_padding_mask=key_padding_mask
            )
        self._check_mixed("mix", mixed, query)
        if not self.drops_weights:
            mixed = F.dropout(mixed, self.dropout, self.training)
        return self._merge(mixed)

    @torch.no_grad()
    def init_state(
        self,
        batch_size: int,
        context: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> State:
        """See `Attention.init_state`."""
        self._check_decoding(batch_size, context, key_padding_mask)
        if context is None:
            return State()
        k, v = self._keys_and_values(context)
        with self._precision(k):
            return State(0, self.absorb({}, k, v, key_padding_mask=key_padding_mask))

    @torch.no_grad()
    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.step`."""
        self._check_step(query)
        memory, position = state.tensors, state.position
        q = self._queries(query, position)
        if not self.pattern.is_cross:
            k, v = self._keys_and_values(query, position)
            with self._precision(k):
                memory = self.absorb(memory, k, v, position=position)
        with self._precision(q):
            mixed = self.read(q, memory, position=position)
        self._check_mixed("read", mixed, query)
        return self._merge(mixed), State(position + 1, memory)

    @torch.no_grad()
    def prefill(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.prefill`."""
        self._check_prefill(query, state)
        q, memory = self._queries(query), state.tensors
        if self.pattern.is_cross:
            with self._precision(q):
                mixed = self.read(q, memory)
        else:
            k, v = self._keys_and_values(query)
            with self._precision(q):
                memory, mixed = self.absorb({}, k, v), self.mix(q, k, v)
        self._check_mixed("read" if self.pattern.is_cross else "mix", mixed, query)
        return self._merge(mixed), State(query.shape[1], memory)

    def num_kv(self, length: int) -> int:
        """The elements of the keys and values of `length` positions, 2 E each unless shared."""
        return length * (self.k_proj.out_features + self.v_proj.out_features)

    def _heads(self, proj: nn.Module, x: Tensor) -> Tensor:
        """(B, length, E) to (B, heads, length, D)."""
        split = (self.num_heads, -1) if self.any_width else (-1, self.head_dim)
        heads = proj(x).unflatten(-1, split).transpose(1, 2)
        return in_full(heads) if self.full_precision else heads

    def _queries_keys_values(self, query: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `mix` is given."""
        q = self._queries(query)
        if self.k_proj is self.q_proj:  # keys and queries of one sequence are the same
            return q, q, self._heads(self.v_proj, context)
        return q, *self._keys_and_values(context)

    def _queries(self, x: Tensor, position: int = 0) -> Tensor:
        return self._turned(self._heads(self.q_proj, x), position)

    def _keys_and_values(self, x: Tensor, position: int = 0) -> tuple[Tensor, Tensor]:
        return self._turned(self._heads(self.k_proj, x), position), self._heads(self.v_proj, x)

    def _turned(self, x: Tensor, position: int) -> Tensor:
        if self.rotary is None:
            return x
        positions = torch.arange(position, position + x.shape[-2], device=x.device)
        return rotate(x, positions[None], self.rotary)

    def _precision(self, x: Tensor) -> AbstractContextManager[object]:
        if self.full_precision:
            return full_precision(x)
        return nullcontext()

    def _check_mixed(self, method: str, mixed: object, query: Tensor) -> None:
        """Heads may be of any width and number that the output projection takes."""
        batch_size, length, width = *query.shape[:2], self.out_proj.in_features
        if isinstance(mixed, Tensor) and mixed.dim() == 4:
            _, num_heads, _, head_dim = mixed.shape
            if mixed.shape[::2] == (batch_size, length) and num_heads * head_dim == width:
                return
        expected = (batch_size, self.num_heads, length, width // self.num_heads)
        self._fail_returned(method, f"(batch, heads, query length, head_dim) = {expected}", mixed)

    def _merge(self, mixed: Tensor) -> Tensor:
        """(B, H, M, D) to (B, M, E), through the output projection."""
        if self.full_precision:
            mixed = mixed.to(self.out_proj.weight.dtype)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))

    def _check_rotary(self, rotary: float) -> None:
        if not self.takes_rotary:
            self._fail("it has no plain product of q and k to turn; rotary must be null")
        if self.pattern.is_cross:
            self._fail(f"rotary positions compare places in one sequence; {self.pattern} has two")
        if rotary <= 0:
            self._fail(f"rotary must be positive or null, got {rotary}")
        if self.head_dim % 2:
            self._fail(f"rotary needs an even head_dim, got {self.head_dim}")
