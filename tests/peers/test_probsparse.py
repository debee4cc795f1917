"""ProbSparse attention beside transformers' Informer."""

from typing import Any

import pytest
import torch

from attentions.base import Pattern
from attentions.sparse.probsparse import ProbSparseAttention
from tests.attentions.claims import build, draw
from tests.peers import copy, peer

pytestmark = pytest.mark.slow  # the import alone takes ten seconds


def ours(pattern: Pattern) -> ProbSparseAttention:
    attention = build("probsparse", pattern)
    assert isinstance(attention, ProbSparseAttention)
    return attention


def theirs_like(attention: ProbSparseAttention) -> Any:
    informer = peer("transformers.models.informer.modeling_informer")
    theirs = informer.InformerProbSparseAttention(16, 2, sampling_factor=5).double().eval()
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        copy(getattr(attention, name), to=getattr(theirs, name))
    return theirs


@pytest.mark.parametrize("num_keys", [3, 12])
def test_equals_transformers_with_the_same_sampled_keys(num_keys: int) -> None:
    # So few keys that both sample as many as there are, with replacement; 20 of 40 queries attend.
    attention = ours(Pattern.NONCAUSAL_CROSS)
    theirs = theirs_like(attention)
    query, context = draw(0, 2, 40, 16), draw(1, 2, num_keys, 16)
    torch.manual_seed(3)
    expected, _, *_ = theirs(query, key_value_states=context)
    torch.manual_seed(3)
    attention.draws[:num_keys] = torch.randint(0, num_keys, (num_keys,))
    torch.testing.assert_close(attention(query, context), expected)


def test_transformers_samples_as_many_keys_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    # Algorithm 1 has U = L_Q ln L_K scores in all, that is ln L_K keys for each query; with one
    # choice of keys for all queries that is c ln L_K keys, not c L_Q ln L_K.
    drawn = []
    randint = torch.randint

    def recording(*args: Any) -> torch.Tensor:
        drawn.append(args[-1])
        return randint(*args)

    attention = ours(Pattern.NONCAUSAL_SELF)
    monkeypatch.setattr(torch, "randint", recording)
    theirs_like(attention)(draw(0, 2, 100, 16))
    assert drawn == [(100,)]
    # Ours looks at the first 25 draws.
    query = draw(0, 2, 100, 16)
    expected = attention(query)
    attention.draws[25:] = 0
    assert torch.equal(attention(query), expected)
    attention.draws[:25] = 0
    assert not torch.equal(attention(query), expected)
