"""The GPT-2 backbone: its positions, its size, what it may see."""

from typing import Any

import pytest
import torch

from attentions.base import Pattern
from attentions.softmax.softmax import SoftmaxAttention
from tasks.backbones.gpt2 import Gpt2
from tasks.base import AttentionSlots

SIZES = {"embed_dim": 24, "num_heads": 3, "ffn_dim": 40, "num_layers": 2}


def build(max_len: int = 20, **changes: Any) -> Gpt2:
    slots = AttentionSlots(SoftmaxAttention, Pattern.CAUSAL_SELF)
    return Gpt2(slots, 11, max_len=max_len, **{**SIZES, **changes}).eval()


def test_position_is_seen() -> None:
    model = build(num_layers=0)
    hidden = model(torch.tensor([[3, 3]]))
    assert not torch.allclose(hidden[0, 0], hidden[0, 1])


def test_it_has_the_parameters_of_fairseqs_transformer_lm_gpt() -> None:
    with torch.device("meta"):
        slots = AttentionSlots(SoftmaxAttention, Pattern.CAUSAL_SELF)
        model = Gpt2(slots, 50_260, max_len=8)
    # fairseq's decoder at 3d262bb with the architecture transformer_lm_gpt, input and output
    # embedding shared, counted by running it.
    assert sum(p.numel() for p in model.parameters()) == 123_655_680
    assert len(slots.under_test) == 12
    assert {a.max_len for a in slots.under_test} == {8}


def test_a_later_token_cannot_change_an_earlier_logit() -> None:
    model = build()
    tokens = torch.randint(11, (2, 20))
    logits = model.logits(model(tokens))
    for past in (1, 10, 19):
        changed = torch.cat([tokens[:, :past], (tokens[:, past:] + 1) % 11], dim=1)
        others = model.logits(model(changed))
        torch.testing.assert_close(others[:, :past], logits[:, :past])
        assert not torch.allclose(others[:, past], logits[:, past])


def test_the_embedding_is_the_unembedding() -> None:
    model = build()
    hidden = torch.eye(24)[:3]
    torch.testing.assert_close(model.logits(hidden), model.tokens.weight[:, :3].T)


def test_a_text_longer_than_max_len_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 20 tokens \(max_len\), got 21"):
        build()(torch.zeros(1, 21, dtype=torch.long))
