"""The scans of this folder by the Triton kernels of flash-linear-attention, on CUDA.

Each takes and returns what its namesake beside it does, which is its oracle. The kernels round the
factors of a product of float32 numbers to TF32 and sum in float32.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attentions.base import Unavailable


def causal_scan(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None) -> Tensor:
    """See `attentions.functional.scan.causal_scan`."""
    _check_device(v)
    from fla.ops.simple_gla import chunk_simple_gla

    q, k = (x.expand(*v.shape[:-1], -1) for x in (q, k))  # one for all heads is one for each here
    if log_decay is not None:
        log_decay = log_decay.expand(v.shape[:-1])
    return _run(chunk_simple_gla, q, k, v, log_decay)[0]


def gated_scan(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """See `attentions.functional.gated_scan.gated_scan`, from the start to the end."""
    _check_device(v)
    from fla.ops.gla import chunk_gla

    return _run(chunk_gla, q, k, v, log_decay)[0]


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `attentions.functional.delta_rule.delta_rule`."""
    _check_device(v)
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    if log_decay is None:  # the kernel without a decay refuses float32
        log_decay = torch.zeros_like(beta)
    return _run(chunk_gated_delta_rule, q, k, v, log_decay, beta)


def _check_device(x: Tensor) -> None:
    # Triton's interpreter, by which the tests run the kernels without CUDA, takes CPU tensors.
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise Unavailable(
            f"backend fla runs on cuda, and the inputs are on {x.device.type}: use backend torch"
        )


def _run(kernel: Callable[..., Any], *rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """The outputs (B, H, L, D) and the last state, of a kernel with positions before heads."""
    swapped = (None if x is None else x.transpose(1, 2).contiguous() for x in rows)
    out, state = kernel(*swapped, scale=1.0, output_final_state=True)
    return out.transpose(1, 2), state
