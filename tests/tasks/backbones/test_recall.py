"""Zoology's recall model against its formula, and against the size of the authors' own."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from attentions.base import Pattern
from attentions.softmax.softmax import SoftmaxAttention
from tasks.backbones.recall import Block, RecallModel
from tasks.base import AttentionSlots


def decoder(vocab_size: int, seq_len: int, embed_dim: int) -> RecallModel:
    slots = AttentionSlots(SoftmaxAttention, Pattern.CAUSAL_SELF)
    return RecallModel(slots, vocab_size, seq_len=seq_len, embed_dim=embed_dim)


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Layer norm, written out."""
    norm = cast(nn.LayerNorm, norm)
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    return centred / (variance + 1e-5).sqrt() * norm.weight + norm.bias


def mixed(attention: SoftmaxAttention, x: Tensor) -> Tensor:
    """One head of causal softmax attention, written out."""
    q, k, v = (getattr(attention, f"{name}_proj")(x) for name in "qkv")
    scores = q @ k.mT / x.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:]).triu(1).bool()
    return attention.out_proj(scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ v)


def test_a_block_adds_the_mixer_and_then_what_its_second_norm_gives() -> None:
    """Zoology's block is a Transformer's with the identity as its MLP."""
    model = decoder(16, 9, 8).double()
    with torch.no_grad():
        for parameter in model.parameters():  # norms that are not the identity
            parameter.add_(torch.randn_like(parameter) / 3)
    tokens = torch.randint(16, (3, 9))
    x = model.tokens.weight[tokens] + cast(Tensor, model.positions.rows)
    for block in cast(Iterable[Block], model.blocks):
        y = x + mixed(cast(SoftmaxAttention, block.mixer), normed(block.norm1, x))
        x = y + normed(block.norm2, y)
    expected = normed(model.norm, x) @ model.tokens.weight.T
    assert_close(model(tokens, torch.arange(9).expand(3, -1)), expected)


def test_it_has_as_many_parameters_as_the_authors_own() -> None:
    # zoology.model.LanguageModel with zoology.mixers.attention.MHA and torch.nn.Identity (Figure 2)
    for sizes, theirs in {(32, 32, 32): 10_816, (8192, 64, 64): 562_304}.items():
        assert sum(p.numel() for p in decoder(*sizes).parameters()) == theirs
