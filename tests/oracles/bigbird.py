"""BigBird, query by query: softmax over a list of keys. Exact limit: all blocks are seen."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"block_size": 4, "num_random": 2}
BLOCK = 32  # eight of its blocks: then there are some that are not seen
STATE_GROWS = True


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    size, is_causal = attention.block_size, attention.pattern == "causal_self"
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        padded = key_padding_mask[b].tolist()
        num_blocks = -(-length(padded) // size)
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                row = i // size
                seen = visible(row, num_blocks, attention.draws[h, row].tolist(), is_causal)
                keys = [
                    j
                    for j in range(i + 1 if is_causal else len(padded))
                    if j // size in seen and not padded[j]
                ]
                if keys:
                    weights = (k[b, h, keys] @ q[b, h, i] / q.shape[-1] ** 0.5).exp()
                    place = tuple(torch.tensor(n) for n in (b, h, i))
                    out = out.index_put(place, weights @ v[b, h, keys] / weights.sum())
    return merge(attention, out)


def visible(row: int, num_blocks: int, draws: list[int], is_causal: bool) -> set[int]:
    """The blocks that a block sees; each draw is a place among those that are left."""
    last = num_blocks - 1
    seen = {0, row - 1, row} if is_causal else {0, last, row - 1, row, row + 1}
    if not is_causal and row in (0, last):
        return set(range(num_blocks))
    for draw in draws:
        left = [n for n in range(row if is_causal else num_blocks) if n not in seen]
        if left:
            seen.add(left[draw % len(left)])
    return seen


def length(padded: list[bool]) -> int:
    """Positions up to the last that is not padding."""
    return max((n + 1 for n, is_padding in enumerate(padded) if not is_padding), default=1)
