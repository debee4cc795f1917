"""The passes that `attnbench speed` measures, each as a `Call` on one module and its inputs.

Shapes: query (B, M, E); context (B, N, E) in the cross patterns, else None.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attentions.base import Attention, State
from runners.measure import Call

PASSES = ("forward", "forward_backward", "prefill", "decode")
CAUSAL_PASSES = ("prefill", "decode")


def backends(module: nn.Module) -> list[str]:
    """The kernels beside torch's that compute its parallel form."""
    return sorted({a.backend for a in _attentions(module)} - {"torch"})


@contextmanager
def in_torch_form(module: nn.Module) -> Iterator[None]:
    """Let torch's kernels compute it meanwhile, with the same weights."""
    given = [(attention, attention.backend) for attention in _attentions(module)]
    try:
        for attention, _ in given:
            attention.backend = "torch"
        yield
    finally:
        for attention, backend in given:
            attention.backend = backend


def _attentions(module: nn.Module) -> list[Attention]:
    return [part for part in module.modules() if isinstance(part, Attention)]


def forward(module: Attention, query: Tensor, context: Tensor | None = None) -> Call:
    """A forward as in inference: evaluation mode, no graph."""
    module.eval()

    @torch.no_grad()
    def run() -> Tensor:
        return module(query, context)

    return Call(run)


def forward_backward(module: Attention, query: Tensor, context: Tensor | None = None) -> Call:
    """A forward in training mode, and the gradients of the inputs and weights."""
    module.train()
    inputs = [x.detach().requires_grad_() for x in (query, context) if x is not None]
    leaves = [*inputs, *module.parameters()]
    upstream = torch.randn_like(query)

    def forget() -> None:
        for leaf in leaves:
            leaf.grad = None

    def run() -> None:
        out = module(*inputs)
        if out.requires_grad:  # the control `none` depends on nothing
            out.backward(upstream)

    return Call(run, forget)


def prefill(module: Attention, query: Tensor, context: Tensor | None = None) -> Call:
    """All of the context and the prompt, up to the state from which single steps go on."""
    module.eval()
    return Call(lambda: _prefilled(module, query, context))


@torch.no_grad()
def _prefilled(module: Attention, query: Tensor, context: Tensor | None) -> tuple[Tensor, State]:
    return module.prefill(query, module.init_state(query.shape[0], context))


class Decoding:
    """Single steps behind a prompt, rewound before the sequence has grown by a sixteenth.

    One step is made in advance: there, a buffer that the prompt has filled must grow, which
    happens too seldom to belong to the cost of every token.

    Attributes:
        state_bytes: The size of the state behind the prompt.
    """

    def __init__(self, module: Attention, query: Tensor, context: Tensor | None = None) -> None:
        module.eval()
        self.module = module
        self.token = query[:, :1]
        self.rows = torch.arange(query.shape[0], device=query.device)
        self.end = query.shape[1] + self.num_steps(query.shape[1])
        state = _prefilled(module, query, context)[1]
        self.state_bytes = state.num_bytes
        self.kept = module.step(self.token, state)[1]
        self.state = self.kept.select(self.rows)

    @staticmethod
    def num_steps(prompt_len: int) -> int:
        """The steps behind a prompt before the rewind, with the one in advance."""
        return 1 + max(1, prompt_len // 16)

    def call(self) -> Call:
        """One step for one token of each batch row."""
        return Call(self._step, self._rewind, self.state_bytes)

    def _step(self) -> State:
        spent = self.state  # returned, so that it is not freed while memory is being measured
        self.state = self.module.step(self.token, spent)[1]
        return spent

    def _rewind(self) -> None:
        if self.state.position >= self.end:
            self.state = self.kept.select(self.rows)
