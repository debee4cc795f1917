"""Landmark attention, query by query, with the grouped softmax as two softmaxes."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"block_size": 4, "num_retrieved": 2}
BLOCK = 20  # four blocks with their landmarks: of some two are retrieved, and some are not
STATE_GROWS = True


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
        padded = key_padding_mask[b].tolist()
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                place = tuple(torch.tensor(n) for n in (b, h, i))
                out = out.index_put(place, row(attention, q[b, h, i], k[b, h], v[b, h], i, padded))
    return merge(attention, out)


def row(attention: Any, q: Tensor, k: Tensor, v: Tensor, i: int, padded: list[bool]) -> Tensor:
    size = attention.block_size + 1
    scores = k @ q / len(q) ** 0.5

    def ordinary(block: int) -> list[int]:
        places = range(block * size, (block + 1) * size - 1)
        return [j for j in places if j <= i and not padded[j]]

    own = ordinary(i // size)
    landmarks = {block: (block + 1) * size - 1 for block in range(i // size)}
    landmarks = {block: j for block, j in landmarks.items() if not padded[j] and ordinary(block)}
    if not attention.training and attention.num_retrieved is not None:
        best = sorted(landmarks, key=lambda block: -float(scores[landmarks[block]].detach()))
        landmarks = {block: landmarks[block] for block in best[: attention.num_retrieved]}
    if not own and not landmarks:
        return torch.zeros_like(q)
    shares = scores[[*own, *landmarks.values()]].softmax(dim=0)
    out = shares[: len(own)] @ v[own]
    for block, share in zip(landmarks, shares[len(own) :], strict=True):
        tokens = ordinary(block)
        out = out + share * (scores[tokens].softmax(dim=0) @ v[tokens])
    return out
