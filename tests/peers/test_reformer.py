"""Reformer beside reformer-pytorch with the same rotations, and beside transformers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from attentions.base import Pattern
from attentions.sparse.reformer import ReformerAttention
from tests.attentions.claims import build, draw
from tests.peers import copy, peer

lsh = peer("reformer_pytorch.reformer_pytorch")
NS, CS = Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF


def ours(pattern: Pattern, **settings: int | None) -> ReformerAttention:
    attention = build("reformer", pattern, **settings)
    assert isinstance(attention, ReformerAttention)
    return attention


def reformer_pytorch(attention: ReformerAttention, q: Tensor, v: Tensor) -> Tensor:
    """As in the paper: inside buckets, each key once. Gives `attention` the drawn rotations."""
    _, _, num_rounds, half = attention.rotations.shape
    theirs = lsh.LSHAttention(
        bucket_size=q.shape[-2] // (2 * half),
        n_hashes=num_rounds,
        causal=attention.pattern is CS,
        attend_across_buckets=False,
        allow_duplicate_attention=False,
    )
    torch.manual_seed(3)
    attention.rotations.copy_(torch.randn(1, q.shape[-1], num_rounds, half, dtype=q.dtype))
    torch.manual_seed(3)
    # It divides the scores by sqrt D, as the text of the paper may be read.
    out = theirs((q * q.shape[-1] ** 0.5).flatten(0, 1), v.flatten(0, 1))[0]
    return out.unflatten(0, q.shape[:2])


def test_equals_reformer_pytorch_inside_buckets() -> None:
    attention = ours(NS, chunk_size=4, num_rounds=3, num_buckets=8)
    q, v = draw(0, 2, 2, 32, 8), draw(1, 2, 2, 32, 8)
    expected = reformer_pytorch(attention, q, v)
    # It adds 1e-9 to the counts.
    torch.testing.assert_close(attention.mix(q, q, v), expected, rtol=1e-7, atol=1e-7)


def test_equals_reformer_pytorch_in_causal_order_where_borders_do_not_matter() -> None:
    attention = ours(CS, chunk_size=32, num_rounds=3, num_buckets=2)
    q, v = draw(0, 2, 2, 32, 8), draw(1, 2, 2, 32, 8)
    expected = reformer_pytorch(attention, q, v)  # two chunks: each sees all that is earlier
    torch.testing.assert_close(attention.mix(q, q, v), expected, rtol=1e-7, atol=1e-7)


def test_reformer_pytorch_chooses_keys_by_later_positions() -> None:
    # What ours must not do. The earlier half is much alike, so that it fills several chunks of its
    # bucket, whose borders depend on how many of the later half stand before.
    q, v = draw(0, 1, 2, 32, 8), draw(1, 1, 2, 32, 8)
    q[:, :, :16] = draw(2, 1, 2, 1, 8) + 0.1 * q[:, :, :16]
    other = torch.cat([q[:, :, :16], draw(3, 1, 2, 16, 8)], dim=2)
    attention = ours(CS, chunk_size=4, num_rounds=1, num_buckets=8)
    theirs = [reformer_pytorch(attention, x, v)[:, :, :16] for x in (q, other)]
    assert (theirs[0] - theirs[1]).abs().max() > 0.1
    torch.testing.assert_close(*(attention.mix(x, x, v)[:, :, :16] for x in (q, other)))


def transformers(pattern: Pattern, num_buckets: Any = 2, **settings: Any) -> Any:
    reformer = peer("transformers.models.reformer.modeling_reformer")
    config = reformer.ReformerConfig(
        attention_head_size=8,
        num_attention_heads=2,
        hidden_size=16,
        attn_layers=["lsh"],
        is_decoder=pattern is CS,
        num_buckets=num_buckets,
        **settings,
    )
    return reformer.LSHSelfAttention(config, layer_idx=0).double().eval()


@pytest.mark.parametrize("pattern", [NS, CS])
@pytest.mark.parametrize("chunk_size", [32, 16])
def test_equals_transformers_in_the_limit(pattern: Pattern, chunk_size: int) -> None:
    # In two chunks of 16 too: there every query sees both, for it does not look at buckets.
    theirs = transformers(pattern, lsh_attn_chunk_length=chunk_size)
    attention = ours(pattern, chunk_size=32)
    copy(attention.q_proj, to=theirs.query_key)
    copy(attention.v_proj, to=theirs.value)
    with torch.no_grad():
        attention.out_proj.weight.copy_(torch.eye(16))
        attention.out_proj.bias.zero_()
    x = draw(0, 2, 32, 16)
    hashed = attention(x)
    attention.rotations.zero_()  # one bucket
    expected = theirs(x).hidden_states
    # It adds 1e-6 to the mean square of each key.
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-4)
    assert (hashed - expected).abs().max() > 0.1


@pytest.mark.parametrize(("num_buckets", "factors"), [(8, [8]), (32, [4, 8])])
def test_hashes_as_transformers(num_buckets: int, factors: list[int]) -> None:
    theirs = transformers(NS, num_buckets=factors, hash_seed=3)
    attention = ours(NS, chunk_size=4, num_rounds=3, num_buckets=num_buckets)
    assert attention.factors == factors
    torch.manual_seed(3)
    attention.rotations.copy_(torch.randn_like(attention.rotations))
    q = draw(0, 2, 2, 40, 8)
    expected = theirs._hash_vectors(q, 3, None).unflatten(-1, (3, 40))
    expected = expected - num_buckets * torch.arange(3)[:, None]  # one range for each round
    assert torch.equal(attention._hash(q), expected)


@pytest.mark.parametrize("length", [64, 128, 4096, 8192, 16384, 65536])
def test_factorises_as_transformers(length: int) -> None:
    theirs = transformers(NS, num_buckets=None, lsh_attn_chunk_length=64)
    theirs._set_num_buckets(length)
    chosen = theirs.num_buckets
    attention = ours(NS, chunk_size=64, num_buckets=None, max_len=length)
    assert attention.factors == (chosen if isinstance(chosen, list) else [chosen])
