"""Softmax attention of blocks of queries, each to its own list of keys: every sparse pattern.

Shapes: B batch, H heads, M query length, N context length, D head_dim, T number of blocks, b
queries per block, W keys that a block can see.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.functional.chunks import in_chunks
from attentions.functional.masked import masked_attention


def gathered_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    allowed: Tensor,
    *,
    key_padding_mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Query i of block t attends to the keys w of its block's list where `allowed[t, i, w]`.

    The listed keys are copied, T W of them, and one fused kernel attends to them: twice as fast as
    a softmax over scores in memory, and leaner wherever a block has more queries than D.

    Args:
        q: (B, H, M, D); b neighbouring queries are a block, the last may have fewer.
        k: (B, H, N, D).
        v: (B, H, N, D).
        keys: int64 (1 or B, T, W), positions of keys; those below 0 or from N on are left out.
        allowed: Bool (1 or B, T, b, W).
        key_padding_mask: Bool (B, N), True where the key is padding and is ignored.
        dropout: Probability, on the attention weights.

    Returns:
        (B, H, M, D); zero for a query without any key.
    """
    batch_size, _, query_len, _ = q.shape
    key_len = k.shape[-2]
    seen = (keys >= 0) & (keys < key_len)
    keys = keys.clamp(0, key_len - 1)
    if key_padding_mask is not None:
        row = torch.arange(batch_size, device=q.device)[:, None, None]
        seen = seen & ~key_padding_mask[row, keys]
    allowed = (allowed & seen[:, :, None]).expand(batch_size, -1, -1, -1)
    out = masked_attention(
        in_chunks(q, allowed.shape[-2]).transpose(1, 2).flatten(0, 1),  # (B T, H, b, D)
        _rows(k, keys),
        _rows(v, keys),
        allowed.flatten(0, 1)[:, None],
        dropout=dropout,
    )
    out = out.transpose(1, 2).unflatten(0, (batch_size, -1)).flatten(1, 2)  # (B, T b, H, D)
    return out[:, :query_len].transpose(1, 2)


def _rows(x: Tensor, positions: Tensor) -> Tensor:
    """Copy the positions (1 or B, T, W) of x (B, H, N, D), block by block: (B T, H, W, D)."""
    batch_size, num_heads, length, _ = x.shape
    offset = torch.arange(batch_size, device=x.device)[:, None, None] * length
    table = x.transpose(1, 2).flatten(0, 1).flatten(1)  # (B N, H D): no copy of projected heads
    # An embedding: its backward adds whole rows, without the atomics of index_select's.
    rows = F.embedding((positions + offset).flatten(0, 1), table)
    return rows.unflatten(-1, (num_heads, -1)).transpose(1, 2)
