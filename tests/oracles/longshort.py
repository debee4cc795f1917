"""Long-short attention, query by query: softmax over a list of normed keys and summaries.

Causal: with scores by distance, one vector of sinusoids at a time.
"""

import math
from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"window": 8, "num_landmarks": 3, "chunk_size": 5, "chunk_rank": 2}
BLOCK = 32  # queries per block at small windows
STATE_GROWS = True


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    length, window, chunk = q.shape[2], attention.window, attention.chunk_size
    is_causal = attention.pattern == "causal_self"
    logits = (context @ attention.summary_proj.weight.T).unflatten(-1, (attention.num_heads, -1))
    near_k, near_v = (normed(x, attention.short_norm) for x in (k, v))
    samples = []
    for b in range(len(q)):
        real = [j for j in range(length) if not key_padding_mask[b, j]]

        groups = [real]
        if is_causal:
            starts = range(0, length, chunk)
            groups = [[j for j in real if start <= j < start + chunk] for start in starts]
        far = []
        for group in groups:
            weights = softmax(logits[b, group].permute(1, 2, 0))
            sources = (k, v) if is_causal else (near_k, near_v)
            means = [weights @ x[b][:, group] for x in sources]
            far.append([normed(mean[None], attention.long_norm)[0] for mean in means])
        rows = []
        for i in range(length):
            start, reach = i // window * window, max(1, window // 2)
            if is_causal:
                near = [j for j in real if i - window < j <= i]
            else:
                near = [j for j in real if start - reach <= j < start + window + reach]
            seen = [g for g, group in enumerate(groups) if group]
            if is_causal:
                seen = [g for g in seen if g < i // chunk]
            keys = torch.cat([near_k[b][:, near], *(far[g][0] for g in seen)], dim=1)
            values = torch.cat([near_v[b][:, near], *(far[g][1] for g in seen)], dim=1)
            scaled = q[b, :, i] / q.shape[-1] ** 0.5
            scores = torch.einsum("hd,hjd->hj", scaled, keys)
            if is_causal:
                # One distance for each of the vectors, those of chunks of padding among them.
                rank, own = logits.shape[-1], i // chunk
                behind = [own * rank - 1 - (g * rank + c) for g in seen for c in range(rank)]
                far_scores = by_distance(scaled, attention.chunk_distance_proj, behind)
                placed = scaled + attention.distance_bias[:, 0]
                near_scores = by_distance(placed, attention.distance_proj, [i - j for j in near])
                near_scores = (
                    near_scores + near_k[b][:, near] @ attention.content_bias[:, 0, :, None]
                )
                scores = scores + torch.cat([near_scores[..., 0], far_scores[..., 0]], dim=1)
            rows.append(torch.einsum("hj,hjd->hd", softmax(scores), values))
        samples.append(torch.stack(rows, dim=1))
    return merge(attention, torch.stack(samples))


def by_distance(q: Tensor, proj: Any, distances: list[int]) -> Tensor:
    """The scores (H, distances, 1) of one query (H, D) with the projected sinusoids."""
    width = proj.in_features
    table = torch.zeros(len(distances), width, dtype=q.dtype)
    for row, distance in enumerate(distances):
        for f in range(width // 2):
            angle = distance / 10000 ** (2 * f / width)
            table[row, f], table[row, width // 2 + f] = math.sin(angle), math.cos(angle)
    projected = proj(table).unflatten(-1, (len(q), -1)).transpose(0, 1)  # (H, distances, D)
    return projected @ q[..., None]


def softmax(scores: Tensor) -> Tensor:
    weights = scores.exp()
    return weights / weights.sum(dim=-1, keepdim=True)


def normed(x: Tensor, norm: Any) -> Tensor:
    """Layer norm of (B, H, L, D) over heads and columns."""
    mean = x.mean(dim=(1, 3), keepdim=True)
    variance = (x - mean).square().mean(dim=(1, 3), keepdim=True)
    heads, width = x.shape[1], x.shape[3]
    weight, bias = (w.view(1, heads, 1, width) for w in (norm.weight, norm.bias))
    return (x - mean) / (variance + norm.eps).sqrt() * weight + bias
