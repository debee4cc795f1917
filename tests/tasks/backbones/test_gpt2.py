"""The GPT-2 backbone: its positions, its size, what it may see."""

import math

import pytest
import torch

from attentions.base import Pattern
from attentions.softmax.softmax import SoftmaxAttention
from tasks.backbones.gpt2 import Gpt2, sinusoids
from tasks.base import AttentionSlots

SIZES = {"embed_dim": 24, "num_heads": 3, "ffn_dim": 40, "num_layers": 2}


def build(max_len: int = 20, **changes: int) -> Gpt2:
    slots = AttentionSlots(SoftmaxAttention, Pattern.CAUSAL_SELF)
    return Gpt2(slots, 11, max_len=max_len, **{**SIZES, **changes}).eval()


def test_positions_are_sines_then_cosines_of_falling_frequency() -> None:
    table = sinusoids(50, 8).double()
    for position in (0, 1, 7, 49):
        for i in range(4):
            angle = position * 10_000 ** (-i / 3)
            expected = torch.tensor([math.sin(angle), math.cos(angle)], dtype=torch.float64)
            # float32 angles of at most 49 are right to 4e-6
            torch.testing.assert_close(table[position, [i, 4 + i]], expected, rtol=0, atol=1e-5)


def test_position_is_seen() -> None:
    model = build(num_layers=0)
    hidden = model(torch.tensor([[3, 3]]))
    assert not torch.allclose(hidden[0, 0], hidden[0, 1])


def test_it_has_the_parameters_of_gpt2_with_one_embedding() -> None:
    with torch.device("meta"):
        slots = AttentionSlots(SoftmaxAttention, Pattern.CAUSAL_SELF)
        model = Gpt2(slots, 50257, max_len=8)
    attention = 4 * (768 * 768 + 768)
    ffn = 2 * 768 * 3072 + 3072 + 768
    expected = 50257 * 768 + 12 * (attention + ffn + 4 * 768) + 2 * 768
    assert sum(p.numel() for p in model.parameters()) == expected
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
    with pytest.raises(ValueError, match="at most max_len = 20 tokens, got 21"):
        build()(torch.zeros(1, 21, dtype=torch.long))


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="embed_dim must be even for its positions, got 9"):
        build(embed_dim=9)
