"""Reformer position by position: softmax over the union of what the query sees in each round."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"chunk_size": 4, "num_rounds": 3, "num_buckets": 4}
BLOCK = 8
STATE_GROWS = True


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, _, v = heads(attention, query, context)
    out = torch.zeros_like(v)
    for b in range(len(q)):
        real = [n for n in range(q.shape[2]) if not key_padding_mask[b, n]]
        for h in range(q.shape[1]):
            rounds = [
                visible(attention, [bucket(attention, h, r, q[b, h, n]) for n in real])
                for r in range(attention.num_rounds)
            ]
            for i, n in enumerate(real):
                seen = sorted(set().union(*(sees[i] for sees in rounds)) - {i}) or [i]
                others = [real[j] for j in seen]
                keys = q[b, h, others]
                keys = keys / keys.norm(dim=-1, keepdim=True)
                weights = (keys @ q[b, h, n]).exp()
                row = weights @ v[b, h, others] / weights.sum()
                out = out.index_put((torch.tensor(b), torch.tensor(h), torch.tensor(n)), row)
    return merge(attention, out)


def bucket(attention: Any, h: int, r: int, x: Tensor) -> tuple[int, ...]:
    """Its places, the last first: the order in which buckets are sorted."""
    columns = (x @ attention.rotations[h, :, r]).tolist()
    places = []
    for factor in attention.factors:
        turned, columns = columns[: factor // 2], columns[factor // 2 :]
        both = turned + [-t for t in turned]
        places.append(both.index(max(both)))
    return tuple(reversed(places))


def visible(attention: Any, buckets: list[tuple[int, ...]]) -> list[set[int]]:
    """What each position sees in one round, itself included."""
    size = attention.chunk_size
    order = sorted(range(len(buckets)), key=lambda i: (buckets[i], i))
    rank = {i: place for place, i in enumerate(order)}

    def near(i: int, j: int) -> bool:
        if attention.pattern == "causal_self":
            return 0 <= rank[i] - rank[j] <= size
        return rank[i] // size - rank[j] // size in (0, 1)

    return [
        {j for j in order if buckets[j] == buckets[i] and near(i, j)} for i in range(len(buckets))
    ]
