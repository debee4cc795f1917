"""BigBird beside the one of transformers, with the same weights and the same random blocks."""

from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from attentions.base import Pattern
from attentions.sparse.bigbird import BigBirdAttention
from tests.attentions.claims import build, draw
from tests.peers import copy, peer

pytestmark = pytest.mark.slow  # the import alone takes ten seconds

SIZE, NUM_RANDOM, NUM_BLOCKS = 4, 2, 16
LENGTH = SIZE * NUM_BLOCKS


def ours() -> BigBirdAttention:
    pattern = Pattern.NONCAUSAL_SELF
    attention = build("bigbird", pattern, block_size=SIZE, num_random=NUM_RANDOM)
    assert isinstance(attention, BigBirdAttention)
    torch.nn.init.eye_(attention.out_proj.weight)
    torch.nn.init.zeros_(attention.out_proj.bias)
    return attention


def theirs_like(attention: BigBirdAttention) -> Any:
    module = peer("transformers.models.big_bird.modeling_big_bird")
    config = module.BigBirdConfig(
        hidden_size=16,
        num_attention_heads=2,
        block_size=SIZE,
        num_random_blocks=NUM_RANDOM,
        max_position_embeddings=LENGTH,
    )
    theirs = module.BigBirdBlockSparseAttention(config, seed=0).double().eval()
    for name in ("query", "key", "value"):
        copy(getattr(attention, f"{name[0]}_proj"), to=getattr(theirs, name))
    return theirs


def output(theirs: Any, query: Tensor, padding: Tensor) -> Tensor:
    module = peer("transformers.models.big_bird.modeling_big_bird")
    masks = module.BigBirdModel.create_masks_for_block_sparse_attn((~padding).double(), SIZE)
    blocked, band, of_query, of_key = masks
    return theirs(query, band, of_query, of_key, blocked, blocked)[0]


@pytest.mark.parametrize("real", [LENGTH, LENGTH - 3])
def test_equals_transformers_with_the_same_random_blocks(
    real: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = ours()
    theirs = theirs_like(attention)
    blocks = attention._visible(torch.arange(NUM_BLOCKS), torch.tensor([NUM_BLOCKS]))[0]
    random = [
        numpy.array([
            [b for b in row if b not in (0, i - 1, i, i + 1, NUM_BLOCKS - 1)][:NUM_RANDOM]
            for i, row in enumerate(head)
        ][1:-1])
        for head in blocks.tolist()
    ]  # fmt: skip
    monkeypatch.setattr(theirs, "_bigbird_block_rand_mask_with_head", lambda **_: random)
    query = draw(0, 2, LENGTH, 16)
    padding = (torch.arange(LENGTH) >= real).expand(2, -1)
    expected = output(theirs, query, padding)[:, :real]
    actual = attention(query, key_padding_mask=padding)[:, :real]
    torch.testing.assert_close(actual, expected)


def random_blocks(theirs: Any) -> numpy.ndarray:
    """Theirs, of each head and of each block but the first and the last."""
    lengths, counts = theirs._get_rand_attn_plan(LENGTH, SIZE, NUM_RANDOM)
    numpy.random.seed(0)
    return numpy.stack(
        theirs._bigbird_block_rand_mask_with_head(LENGTH, LENGTH, SIZE, SIZE, 2, lengths, counts)
    )


def test_transformers_draws_from_the_first_blocks_alone() -> None:
    theirs = theirs_like(ours()).train()
    # From 2 r + 5, of which the last one is taken to be global.
    assert random_blocks(theirs).max() < 2 * NUM_RANDOM + 4


def test_transformers_has_block_0_for_every_random_one_in_evaluation() -> None:
    attention = ours()
    theirs = theirs_like(attention)
    assert not random_blocks(theirs).any()
    # Queries of zero weigh all that they see alike, so block 0 counts 1 + r times.
    torch.nn.init.zeros_(theirs.query.weight)
    torch.nn.init.zeros_(theirs.query.bias)
    query = draw(0, 1, LENGTH, 16)
    actual = output(theirs, query, torch.zeros(1, LENGTH, dtype=torch.bool))
    v = theirs.value(query).unflatten(1, (NUM_BLOCKS, SIZE)).mean(dim=2)
    seen = [0] * (1 + NUM_RANDOM) + [6, 7, 8, NUM_BLOCKS - 1]
    expected = v[:, seen].mean(dim=1, keepdim=True).expand(-1, SIZE, -1)
    torch.testing.assert_close(actual[:, 7 * SIZE : 8 * SIZE], expected)
