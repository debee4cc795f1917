"""Sorted chunks against pairs written out position by position."""

import pytest
import torch

from attentions.functional.sorted_chunks import SortedChunks, rows_at, seen_by_last


def seen(chunks: SortedChunks, length: int) -> torch.Tensor:
    """Which of the pairs (..., N, N) are allowed, from the layout in chunks."""
    table = torch.zeros(*chunks.rank.shape[:-1], length + 1, length + 1, dtype=torch.bool)
    for *batch, chunk, query, key in chunks.allowed().nonzero().tolist():
        positions = chunks.positions[(*batch, chunk)]
        pair = (*batch, int(positions[chunks.size + query]), int(positions[key]))
        assert not table[pair] or length in pair[-2:], "a pair was listed twice"
        table[pair] = True
    assert not table[..., :length, length].any(), "a position sees what is none"
    return table[..., :length, :length]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("length", "size"), [(1, 4), (3, 4), (4, 4), (8, 4), (23, 4), (23, 1)])
def test_pairs_are_those_of_the_definition(length: int, size: int, is_causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    buckets = torch.randint(3, (2, 2, length), generator=generator)
    chunks = SortedChunks(buckets, size, is_causal=is_causal)
    actual = seen(chunks, length)
    for b in range(2):
        for r in range(2):
            of = buckets[b, r].tolist()
            order = sorted(range(length), key=lambda i, of=of: (of[i], i))
            assert chunks.rank[b, r].tolist() == [order.index(i) for i in range(length)]
            for i in range(length):
                for j in range(length):
                    gap = order.index(i) - order.index(j)
                    chunk_gap = order.index(i) // size - order.index(j) // size
                    near = 0 <= gap <= size if is_causal else chunk_gap in (0, 1)
                    assert actual[b, r, i, j] == (near and of[i] == of[j])


@pytest.mark.parametrize("is_causal", [False, True])
def test_times_are_summed_over_the_sortings(is_causal: bool) -> None:
    buckets = torch.randint(3, (2, 3, 17), generator=torch.Generator().manual_seed(0))
    chunks = SortedChunks(buckets, 4, is_causal=is_causal)
    total = seen(chunks, 17).sum(dim=1)
    times = chunks.times_allowed()
    for b, r, chunk, query, key in chunks.allowed().nonzero().tolist():
        i, j = (int(chunks.positions[b, r, chunk, at]) for at in (4 + query, key))
        if i < 17:
            assert times[b, r, chunk, query, key] == total[b, i, j]
    assert total.max() > 1  # some pair was met again


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_last_bucket_moves_no_border_of_the_others(is_causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    buckets = torch.randint(3, (40,), generator=generator)
    out_of_sight = torch.rand(40, generator=generator) < 0.4
    length = int((~out_of_sight).sum())
    alone = seen(SortedChunks(buckets[~out_of_sight], 4, is_causal=is_causal), length)
    hidden = SortedChunks(buckets.masked_fill(out_of_sight, 3), 4, is_causal=is_causal)
    table = seen(hidden, 40)
    assert torch.equal(table[~out_of_sight][:, ~out_of_sight], alone)
    assert not table[~out_of_sight][:, out_of_sight].any()


@pytest.mark.parametrize("length", [1, 2, 17])
def test_the_last_position_sees_what_its_row_of_pairs_says(length: int) -> None:
    buckets = torch.randint(3, (2, 3, length), generator=torch.Generator().manual_seed(0))
    pairs = seen(SortedChunks(buckets, 4, is_causal=True), length)
    assert torch.equal(seen_by_last(buckets, 4), pairs[..., -1, :])


def test_rows_are_copied_per_head() -> None:
    x = torch.randn(2, 3, 5, 4).transpose(0, 1)
    positions = torch.randint(7, (3, 2, 6, 2))
    actual = rows_at(x, positions)
    for b in range(3):
        for h in range(2):
            assert torch.equal(actual[b, h], x[b, h][positions[b, h].clamp(max=4)])
