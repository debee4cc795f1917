"""RoBERTa beside the one of transformers, with the same weights."""

from typing import Any

import pytest
import torch

from attentions.softmax.softmax import SoftmaxAttention
from tasks.backbones.roberta import Roberta
from tasks.base import AttentionSlots
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes ten seconds

VOCAB, LENGTH, PAD = 30, 12, 1


@torch.no_grad()
def like(theirs: Any) -> Any:
    ours: Any = Roberta(
        AttentionSlots(SoftmaxAttention, "all"),
        VOCAB,
        max_len=LENGTH,
        embed_dim=24,
        num_heads=3,
        ffn_dim=40,
        num_layers=2,
    ).double()
    embeddings, head = theirs.roberta.embeddings, theirs.lm_head
    ours.tokens.weight.copy_(embeddings.word_embeddings.weight)
    # The first row belongs to nothing and the second to padding; one segment is part of all.
    rows = embeddings.position_embeddings.weight[2:]
    ours.positions.rows.copy_(rows + embeddings.token_type_embeddings.weight[0])
    pairs = [(embeddings.LayerNorm, ours.norm)]
    for layer, own in zip(theirs.roberta.encoder.layer, ours.layers, strict=True):
        mixed = layer.attention.self
        pairs += [(getattr(mixed, n), getattr(own.attention, f"{n[0]}_proj")) for n in QKV]
        pairs += [
            (layer.attention.output.dense, own.attention.out_proj),
            (layer.attention.output.LayerNorm, own.norm),
            (layer.intermediate.dense, own.feed_forward.expand),
            (layer.output.dense, own.feed_forward.contract),
            (layer.output.LayerNorm, own.feed_forward.norm),
        ]
    pairs += [(head.dense, ours.logits.dense), (head.layer_norm, ours.logits.norm)]
    for source, target in pairs:
        target.load_state_dict(source.state_dict())
    ours.logits.to_logits.bias.copy_(head.bias)
    return ours.eval()


QKV = ("query", "key", "value")


def test_equals_transformers_with_padding() -> None:
    module = peer("transformers.models.roberta.modeling_roberta")
    config = module.RobertaConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        num_attention_heads=3,
        intermediate_size=40,
        num_hidden_layers=2,
        max_position_embeddings=LENGTH + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    theirs = module.RobertaForMaskedLM(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # no bias of zero, no norm of one
    ours = like(theirs)
    padding = torch.arange(LENGTH) >= torch.tensor([12, 7, 1])[:, None]
    tokens = torch.randint(2, VOCAB, (3, LENGTH)).masked_fill(padding, PAD)
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=(~padding).long()).logits
        actual = ours.logits(ours(tokens, padding))
    torch.testing.assert_close(actual[~padding], expected[~padding])
    num_extra = 3 * 24  # two rows of positions, one segment
    count = sum(p.numel() for p in theirs.parameters())
    assert sum(p.numel() for p in ours.parameters()) == count - num_extra
