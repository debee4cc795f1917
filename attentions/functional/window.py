"""Softmax attention in a window that moves with the query, in blocks of queries.

Shapes: B batch, H heads, M query length, N context length, D head_dim, T number of blocks, b
queries per block, W keys that a block can see.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.functional.chunks import unpadded_length
from attentions.functional.gathered_blocks import gathered_attention


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    before: int,
    after: int,
    centre: Tensor | None = None,
    stride: float = 1.0,
    num_shared: int = 0,
    key_padding_mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Query i attends to the keys from centre_i - before to centre_i + after, and to shared ones.

    A block of neighbouring queries shares one copy of the keys that any of them sees, so memory is
    linear: about (b + before + after + num_shared) / b copies of k and v.

    Args:
        q: (B, H, M, D).
        k: (B, H, N, D).
        v: (B, H, N, D).
        before: Keys before the centre.
        after: Keys after the centre.
        centre: int64 (1, M) or (B, M), not decreasing; None for centre_i = i.
        stride: The mean distance of the centres, at most; needed with `centre`.
        num_shared: So many keys, the first, are seen by every query, wherever it stands.
        key_padding_mask: Bool (B, N), True where the key is padding and is ignored.
        dropout: Probability, on the attention weights.

    Returns:
        (B, H, M, D); zero for a query with no key in its window.
    """
    query_len = q.shape[2]
    # Half a window per block: longer ones compute more masked scores, shorter ones copy more keys.
    block_size = max(32, min(128, (before + after + 1) // 2))
    block_size = min(query_len, max(1, round(block_size / stride)))
    span = math.ceil((block_size - 1) * stride) + 1
    if centre is None:
        centre = torch.arange(query_len, device=q.device)[None]
    short = -query_len % block_size
    centre = torch.cat([centre, centre[:, -1:].expand(-1, short)], dim=-1)
    centre = centre.unflatten(-1, (-1, block_size))[..., None]  # (1 or B, T, b, 1)
    reach = torch.arange(span + before + after, device=q.device)
    keys = centre[:, :, :1] - before + reach  # (1 or B, T, 1, W): what a block can see
    allowed = (centre - before <= keys) & (keys <= centre + after) & (keys >= num_shared)
    if num_shared:
        shared = torch.arange(num_shared, device=q.device).expand(*keys.shape[:-1], -1)
        keys = torch.cat([shared, keys], dim=-1)
        allowed = F.pad(allowed, (num_shared, 0), value=True)
    return gathered_attention(
        q, k, v, keys[:, :, 0], allowed, key_padding_mask=key_padding_mask, dropout=dropout
    )


def aligned_centres(
    q: Tensor,
    k: Tensor,
    query_padding_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
) -> tuple[Tensor, float]:
    """Where the queries stand on the axis of the keys, both sequences being equally long in time.

    Query i of m stands at key round((i + 1/2) n / m - 1/2); lengths are without padding, so that
    padding moves nothing.

    Returns:
        The centres, int64 (1 or B, M), not decreasing, and their greatest mean distance n / m.
    """
    query_len = unpadded_length(q, query_padding_mask)[:, None]
    key_len = unpadded_length(k, key_padding_mask)[:, None]
    i = torch.arange(q.shape[-2], device=q.device)
    # (i + 1/2) n / m - 1/2 + 1/2, rounded down: in integers, where no half is ever missed.
    centre = ((2 * i + 1) * key_len).div(2 * query_len, rounding_mode="floor")
    if query_padding_mask is None and key_padding_mask is None:
        return centre, k.shape[-2] / q.shape[-2]
    return centre, (key_len / query_len).amax().item()
