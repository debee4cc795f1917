"""The slowest, most obvious form of each mechanism: one file per YAML of conf/attention.

`tests/oracles/<name>.py` holds one function, which reads the weights of the module `attention` and
shares no code with it:

    def oracle(
        attention: Any,
        query: Tensor,                 # (B, M, E), float64
        context: Tensor,               # (B, N, E); the query itself in the self patterns
        query_padding_mask: Tensor,    # bool (B, M), True for padding; always given
        key_padding_mask: Tensor,      # bool (B, N); the same in the self patterns
    ) -> Tensor: ...                   # (B, M, E), differentiable in inputs and weights

The tests run it and the module on one input and compare outputs and all gradients. What it returns
at a padded query is not compared. For a mechanism with q, k, v, `heads` and `merge` do the
projections; loops over samples and positions are welcome.

The file may also set, for the tests alone:

    SETTINGS = {"window": 3}    # constructor arguments in place of the YAML's, to be small
    BLOCK = 8                   # lengths are drawn around the borders of blocks of this size
    STATE_GROWS = True          # the decoding state is allowed to grow with the tokens
"""

from typing import Any

import torch
from torch import Tensor


def heads(attention: Any, query: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The projected q (B, H, M, D), k and v (B, H, N, D), head after head."""
    width = attention.embed_dim // attention.num_heads

    def project(proj: Any, x: Tensor) -> Tensor:
        rows = range(0, len(proj.weight), width)
        each = [x @ proj.weight[r : r + width].T + proj.bias[r : r + width] for r in rows]
        return torch.stack(each, dim=1)

    return (
        project(attention.q_proj, query),
        project(attention.k_proj, context),
        project(attention.v_proj, context),
    )


def merge(attention: Any, mixed: Tensor) -> Tensor:
    """The heads (B, H, M, D) side by side, through the output projection: (B, M, E)."""
    return torch.cat(mixed.unbind(dim=1), dim=-1) @ attention.out_proj.weight.T + (
        attention.out_proj.bias
    )


def weighted_mean(weights: Tensor, v: Tensor) -> Tensor:
    """Rows of non-negative weights (..., M, N) divided by their sums, zero where a sum is zero."""
    total = weights.sum(dim=-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0) @ v
