"""The RoBERTa backbone: its size, its padding, its head."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from attentions.base import Pattern
from attentions.softmax.softmax import SoftmaxAttention
from tasks.backbones.roberta import Roberta
from tasks.base import AttentionSlots

SIZES = {"embed_dim": 24, "num_heads": 3, "ffn_dim": 40, "num_layers": 2}


def build(max_len: int = 20, **changes: Any) -> Roberta:
    slots = AttentionSlots(SoftmaxAttention, Pattern.NONCAUSAL_SELF)
    return Roberta(slots, 11, max_len=max_len, **{**SIZES, **changes}).double().eval()


def test_it_has_the_parameters_of_fairseqs_roberta_base() -> None:
    with torch.device("meta"):
        slots = AttentionSlots(SoftmaxAttention, Pattern.NONCAUSAL_SELF)
        model = Roberta(slots, 50_265, max_len=2048)
    # fairseq's RobertaEncoder at 3d262bb with max_positions 2048, counted by running it; two rows
    # of its positions belong to padding.
    assert sum(p.numel() for p in model.parameters()) == 125_876_313 - 2 * 768
    assert len(slots.under_test) == 12
    assert {(a.max_len, a.embed_dim, a.num_heads) for a in slots.under_test} == {(2048, 768, 12)}


def test_every_token_sees_every_other_and_no_padding() -> None:
    model = build()
    tokens = torch.randint(11, (2, 20))
    padding = torch.arange(20) >= torch.tensor([20, 13])[:, None]
    encoded = model(tokens, padding)
    other = torch.where(padding, (tokens + 1) % 11, tokens)
    torch.testing.assert_close(model(other, padding)[~padding], encoded[~padding])
    torch.testing.assert_close(model(tokens[1:, :13])[0], encoded[1, :13])
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 11
    assert (model(changed, padding)[0] != encoded[0]).any(dim=-1).all()


def test_the_head_ends_in_the_embedding_and_a_bias() -> None:
    model = build()
    torch.nn.init.normal_(model.logits.to_logits.bias)
    hidden = torch.randn(5, 24, dtype=torch.float64)
    dense = F.gelu(hidden @ model.logits.dense.weight.T + model.logits.dense.bias)
    normed = (dense - dense.mean(-1, keepdim=True)) / (dense.var(-1, False, True) + 1e-5).sqrt()
    expected = normed @ model.tokens.weight.T + model.logits.to_logits.bias
    torch.testing.assert_close(model.logits(hidden), expected)


def test_weights_begin_small() -> None:
    model = build(embed_dim=96, ffn_dim=200)
    for weight in (model.tokens.weight, model.positions.rows, model.logits.dense.weight):
        assert isinstance(weight, torch.Tensor)
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.logits.dense.bias.any()


def test_a_text_longer_than_max_len_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 20 tokens \(max_len\), got 21"):
        build()(torch.zeros(1, 21, dtype=torch.long))
