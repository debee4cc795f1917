"""Local linear attention: at each query, a ridge regression of the values on the keys near it.

Source: Zuo et al., "Local Linear Attention: An Optimal Interpolation of Linear and Softmax
Attention For Test-Time Regression", 2025, arXiv:2510.01450. As in the authors' code, the ridge is
relative to the sum of the weights.
Its size is a setting: 10, the default, is that of one release, and leaves an output near to softmax
attention's; others have 0.01 or 0.1.
Departs from it: the same solution in centred form (below), which divides by no small difference;
the noncausal and cross patterns are ours, the queries being independent of each other.

With w the weights of softmax attention, z_j = k_j - q, S = sum w z z^T + ridge I, m = sum w z and
rho = S^-1 m, the paper has o = sum w_j (1 - z_j . rho) v_j / (1 - m . rho). By the formula of
Sherman and Morrison that is, with means and covariances under w,

    o = mean(v) + Cov(v, k) (Cov(k) + ridge I)^-1 (q - mean(k)),

softmax attention, moved along the regression's slope from the mean key to the query.

Shapes: B batch, H heads, M query length, N context length, D head_dim, b queries per block.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.growing import append

_BLOCK_SIZE = 128


class LocalLinearAttention(MultiHeadAttention):
    """The value at the query of an affine fit to the values, keys weighing as in softmax attention.

    Time is that of softmax attention times about twice the steps of the solver; memory is linear:
    blocks of queries are computed one after another, in the backward pass anew.

    Args:
        ridge: Added to the covariance of the keys; a large one leaves softmax attention.
        num_iterations: Steps of conjugate gradients at most. It stops where the residual is
            rounding: at head_dim steps but for rounding, much sooner beside a large ridge.
    """

    patterns = frozenset(Pattern)
    full_precision = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        ridge: float,
        num_iterations: int,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if ridge <= 0:
            self._fail(f"ridge must be positive, got {ridge}")
        if num_iterations < 1:
            self._fail(f"num_iterations must be positive, got {num_iterations}")
        self.ridge = ridge
        self.num_iterations = num_iterations

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`."""
        return self._regress(q, k, v, key_padding_mask, self.pattern is Pattern.CAUSAL_SELF)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep every key and value."""
        return append(memory, position, key_padding_mask, k=k, v=v)

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """One regression per query, on the whole context or the tokens so far."""
        length = None if self.pattern.is_cross else position + 1
        k, v = (memory[name][:, :, :length] for name in ("k", "v"))
        return self._regress(q, k, v, memory.get("padding"), is_causal=False)

    def memory_elements(self, length: int) -> int:
        """All keys and values: 2 N E."""
        return self.num_kv(length)

    def _regress(
        self, q: Tensor, k: Tensor, v: Tensor, padding_mask: Tensor | None, is_causal: bool
    ) -> Tensor:
        # A graph cannot stop where the solution is found, and unrolled it would have thousands of
        # nodes: it calls one operator. Elsewhere what that consists of is seen, and counted.
        operator = _opaque_forward if torch.compiler.is_compiling() else _LocalLinear.apply
        return operator(q, k, v, padding_mask, is_causal, self.ridge, self.num_iterations)[0]


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    padding_mask: Tensor | None,
    is_causal: bool,
    ridge: float,
    num_iterations: int,
) -> tuple[Tensor, Tensor]:
    """The output sum w_j (1 - c_j) v_j and the slopes a of each query, both (B, H, M, D).

    With a = (Cov(k) + ridge I)^-1 (mean(k) - q) and c_j = (k_j - mean(k)) . a.
    """
    out, slopes = [], []
    for rows, keys, weights in _blocks(q, k, padding_mask, is_causal):
        x = k[:, :, keys]
        mean = weights @ x
        a = _solve(weights, x, mean, mean - q[:, :, rows], ridge, num_iterations)
        out.append((weights * (1 - _centred(a, x, mean))) @ v[:, :, keys])
        slopes.append(a)
    return torch.cat(out, dim=2), torch.cat(slopes, dim=2)


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    padding_mask: Tensor | None,
    slopes: Tensor,
    is_causal: bool,
    ridge: float,
    num_iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, by the implicit derivative of the linear system."""
    grad_q, grad_k, grad_v = [], k.new_zeros(k.shape), v.new_zeros(v.shape)
    for rows, keys, weights in _blocks(q, k, padding_mask, is_causal):
        x, a = k[:, :, keys], slopes[:, :, rows]
        mean = weights @ x
        kept = weights * (1 - _centred(a, x, mean))
        # What each value would do for the loss beyond the mean one, and what of that no slope u
        # over the keys explains.
        pull = grad[:, :, rows] @ v[:, :, keys].mT
        pull = pull - (weights * pull).sum(dim=-1, keepdim=True)
        u = _solve(weights, x, mean, (weights * pull) @ x, ridge, num_iterations)
        rest = pull - _centred(u, x, mean)
        grad_scores = kept * rest
        grad_scores = grad_scores - weights * grad_scores.sum(dim=-1, keepdim=True)
        grad_scores = grad_scores * q.shape[-1] ** -0.5
        grad_q.append(u + grad_scores @ x)
        grad_k[:, :, keys] += grad_scores.mT @ q[:, :, rows]
        grad_k[:, :, keys] -= (weights * rest).mT @ a + kept.mT @ u
        grad_v[:, :, keys] += kept.mT @ grad[:, :, rows]
    return torch.cat(grad_q, dim=2), grad_k, grad_v


class _LocalLinear(torch.autograd.Function):
    """`_forward` with the gradient of `_backward`."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        return _forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, padding_mask, *ctx.settings = inputs
        ctx.save_for_backward(q, k, v, padding_mask, output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *_backward(grads[0], *ctx.saved_tensors, *ctx.settings), None, None, None, None


_opaque_forward = torch.library.custom_op("attnbench::lla", _forward, mutates_args=())
_opaque_backward = torch.library.custom_op("attnbench::lla_backward", _backward, mutates_args=())
_opaque_forward.register_fake(lambda q, *_: (q.new_empty(q.shape), q.new_empty(q.shape)))
_opaque_backward.register_fake(lambda _, *qkv_etc: tuple(x.new_empty(x.shape) for x in qkv_etc[:3]))
_opaque_forward.register_autograd(
    lambda ctx, grad, _: (
        *_opaque_backward(grad, *ctx.saved_tensors, *ctx.settings),
        *[None] * 4,
    ),
    setup_context=_LocalLinear.setup_context,
)


def _blocks(
    q: Tensor, k: Tensor, padding_mask: Tensor | None, is_causal: bool
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks of queries, the keys that any of them sees, and the weights (B, H, b, keys).

    Weights are those of softmax attention, all zero for a query without any key.
    """
    for start in range(0, q.shape[2], _BLOCK_SIZE):
        end = min(start + _BLOCK_SIZE, q.shape[2])
        keys = slice(0, end if is_causal else k.shape[2])
        scores = q[:, :, start:end] @ k[:, :, keys].mT * q.shape[-1] ** -0.5
        if not is_causal and padding_mask is None:
            yield slice(start, end), keys, scores.softmax(dim=-1)
            continue
        hidden = torch.full(scores.shape[-2:], is_causal, device=q.device).triu(start + 1)
        if padding_mask is not None:
            hidden = hidden | padding_mask[:, None, None, keys]
        # Not -inf: without any key there would be no softmax.
        weights = scores.masked_fill(hidden, -1e30).softmax(dim=-1).masked_fill(hidden, 0.0)
        yield slice(start, end), keys, weights


def _centred(x: Tensor, k: Tensor, mean: Tensor) -> Tensor:
    """x_i . (k_j - mean_i): (B, H, b, D) and (B, H, keys, D) to (B, H, b, keys)."""
    return x @ k.mT - (x * mean).sum(dim=-1, keepdim=True)


def _solve(
    weights: Tensor, k: Tensor, mean: Tensor, target: Tensor, ridge: float, num_iterations: int
) -> Tensor:
    """(Cov_i(k) + ridge I)^-1 target_i by conjugate gradients, without forming a covariance.

    Args:
        weights: (B, H, b, keys), each row summing to 1 or all zero.
        k: (B, H, keys, D).
        mean: (B, H, b, D), the means of k.
        target: (B, H, b, D).
    """
    eps, tiny = torch.finfo(target.dtype).eps, torch.finfo(target.dtype).tiny
    solution, residual, direction = torch.zeros_like(target), target, target
    square = target.square().sum(dim=-1, keepdim=True)
    enough = eps**2 * square
    for _ in range(num_iterations):
        spread = weights * _centred(direction, k, mean)
        # Centred on both sides: what rounding leaves is then of second order, and the product with
        # `direction` cannot turn negative beside the ridge.
        image = spread @ k - spread.sum(dim=-1, keepdim=True) * mean + ridge * direction
        curvature = (direction * image).sum(dim=-1, keepdim=True)
        step = square / curvature.clamp(min=tiny)
        solution = solution + step * direction
        residual = residual - step * image
        before, square = square, residual.square().sum(dim=-1, keepdim=True)
        if (square <= enough).all():
            break
        direction = residual + square / before.clamp(min=tiny) * direction
    return solution
