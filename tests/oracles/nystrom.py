"""Nyström attention with its three matrices written out, on each sample without its padding."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

# Few enough landmarks for samples on either side of that number once some of 8 are padding.
SETTINGS = {"num_landmarks": 5}
BLOCK = 8


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        queries = (~query_padding_mask[b]).nonzero().flatten()
        keys = (~key_padding_mask[b]).nonzero().flatten()
        if len(queries) and len(keys):
            for h in range(q.shape[1]):
                rows = one_head(attention, q[b, h, queries], k[b, h, keys], v[b, h, keys])
                out = out.index_put((torch.tensor(b), torch.tensor(h), queries), rows)
    if attention.pattern == "noncausal_self":
        out = out + convolution(attention, v, key_padding_mask)
    return merge(attention, out)


def one_head(attention: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    num_landmarks = attention.num_landmarks
    if min(len(q), len(k)) <= num_landmarks:
        return softmax(q, k) @ v
    q_landmarks, k_landmarks = means(q, num_landmarks), means(k, num_landmarks)
    a = softmax(q_landmarks, k_landmarks)
    z = a.T / max(a[:, j].sum() for j in range(num_landmarks))
    eye = torch.eye(num_landmarks, dtype=a.dtype)
    for _ in range(attention.num_iterations):
        z = z @ (13 * eye - a @ z @ (15 * eye - a @ z @ (7 * eye - a @ z))) / 4
    return softmax(q, k_landmarks) @ z @ softmax(q_landmarks, k) @ v


def softmax(q: Tensor, k: Tensor) -> Tensor:
    weights = (q @ k.T / q.shape[-1] ** 0.5).exp()
    return weights / weights.sum(dim=-1, keepdim=True)


def means(x: Tensor, num_segments: int) -> Tensor:
    size = len(x) // num_segments
    num_shorter = (size + 1) * num_segments - len(x)
    rows, start = [], 0
    for segment in range(num_segments):
        end = start + (size if segment < num_shorter else size + 1)
        rows.append(sum(x[start:end]) / (end - start))
        start = end
    return torch.stack(rows)


def convolution(attention: Any, v: Tensor, padding_mask: Tensor) -> Tensor:
    filters = attention.conv.weight[:, 0, :, 0]  # (H, kernel)
    reach = filters.shape[1] // 2
    batch_size, _, length, _ = v.shape
    samples = []
    for b in range(batch_size):
        rows = []
        for i in range(length):
            row = torch.zeros_like(v[b, :, i])
            for j in range(max(0, i - reach), min(length, i + reach + 1)):
                if not padding_mask[b, j]:
                    row = row + filters[:, j - i + reach, None] * v[b, :, j]
            rows.append(row)
        samples.append(torch.stack(rows, dim=1))
    return torch.stack(samples)
