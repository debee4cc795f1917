"""The models of recall against their formulas; Zoology's also against the size of its own."""

from collections.abc import Callable, Iterable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from attentions.base import Pattern
from attentions.registry import factory, load
from attentions.softmax.softmax import SoftmaxAttention
from tasks.backbones.recall import Block, Context, RecallModel, ShortConvolution, SwiGlu
from tasks.base import AttentionSlots
from tasks.diagnostics.cross_recall import JoinedModel


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
    moved(model)
    tokens = torch.randint(16, (3, 9))
    x = model.tokens.weight[tokens] + cast(Tensor, model.positions.rows)
    for block in cast(Iterable[Block], model.blocks):
        y = x + mixed(cast(SoftmaxAttention, block.mixer), normed(block.norm1, x))
        x = y + normed(block.norm2, y)
    expected = normed(model.norm, x) @ model.tokens.weight.T
    assert_close(model(tokens, torch.arange(9).expand(3, -1)), expected)


def moved(model: nn.Module) -> None:
    """Move all parameters, so that norms are not the identity and biases not zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)


def root_normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Root mean square norm, written out."""
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * cast(nn.RMSNorm, norm).weight


def gelu(mlp: nn.Module, x: Tensor) -> Tensor:
    """The wide one, written out."""
    expand, _, contract = cast(nn.Sequential, mlp)
    h = expand(x)
    return contract(h * (1 + torch.erf(h / 2**0.5)) / 2)


def swiglu(mlp: nn.Module, x: Tensor) -> Tensor:
    """The gated one, written out."""
    mlp = cast(SwiGlu, mlp)
    w1, w2 = mlp.expand.weight.chunk(2)
    gate = x @ w1.T
    return (gate * gate.sigmoid() * (x @ w2.T)) @ mlp.contract.weight.T


def convolved(block: Block, norm: Callable[[nn.Module, Tensor], Tensor], x: Tensor) -> Tensor:
    """A block of a short convolution, position by position."""
    conv = cast(ShortConvolution, block.mixer)
    u = norm(block.norm1, x)
    taps = conv.filter.weight[:, 0]  # (E, W), the newest last
    rows = []
    for i in range(u.shape[1]):
        near = [taps[:, -1 - back] * u[:, i - back] for back in range(taps.shape[1]) if i >= back]
        rows.append(cast(Tensor, conv.filter.bias) + torch.stack(near).sum(dim=0))
    y = x + u + (u @ conv.gate.weight.T + conv.gate.bias) * torch.stack(rows, dim=1)
    return y + norm(block.norm2, y)


@pytest.mark.parametrize(("mlp", "written", "width"), [("gelu", gelu, 32), ("swiglu", swiglu, 32)])
def test_rms_norms_mlps_and_a_leading_convolution_are_their_formulas(
    mlp: str, written: Callable[[nn.Module, Tensor], Tensor], width: int
) -> None:
    slots = AttentionSlots(SoftmaxAttention, Pattern.CAUSAL_SELF)
    model = RecallModel(
        *(slots, 16),
        **{"seq_len": 9, "embed_dim": 8, "mlp": mlp, "norm": "rms", "short_conv": 3},  # type: ignore[arg-type]
        positions="none",
        tied=False,
    ).double()
    moved(model)
    tokens = torch.randint(16, (3, 9))
    x = convolved(cast(Block, model.lead), root_normed, model.tokens.weight[tokens])
    for block in cast(Iterable[Block], model.blocks):
        y = x + mixed(cast(SoftmaxAttention, block.mixer), root_normed(block.norm1, x))
        x = y + written(block.mlp, root_normed(block.norm2, y))
        # 4 E, or 8 E / 3 up to a multiple of 16
        assert max(p.shape[-1] for p in block.mlp.parameters()) == width
    unembed = cast(nn.Linear, model.unembed)
    expected = root_normed(model.norm, x) @ unembed.weight.T + unembed.bias
    assert_close(model(tokens, torch.arange(9).expand(3, -1)), expected)


def read_by(attention: SoftmaxAttention, x: Tensor, context: Tensor) -> Tensor:
    """One head of softmax attention over all of a context, written out."""
    q, k, v = attention.q_proj(x), attention.k_proj(context), attention.v_proj(context)
    return attention.out_proj((q @ k.mT / x.shape[-1] ** 0.5).softmax(dim=-1) @ v)


CROSS = (Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS)


@pytest.mark.parametrize("pattern", CROSS)
def test_a_context_is_read_behind_one_convolution_and_a_norm(pattern: Pattern) -> None:
    slots = AttentionSlots(SoftmaxAttention, pattern)
    model = RecallModel(slots, 16, seq_len=5, context_len=12, embed_dim=8).double()
    moved(model)
    tokens, context = torch.randint(16, (3, 5)), torch.randint(16, (3, 12))
    given = cast(Context, model.context)
    c = model.tokens.weight[context] + cast(Tensor, given.positions.rows)
    c = normed(given.norm, convolved(given.block, normed, c))
    x = model.tokens.weight[tokens]  # the queries have no positions
    for block in cast(Iterable[Block], model.blocks):
        y = x + read_by(cast(SoftmaxAttention, block.mixer), normed(block.norm1, x), c)
        x = y + normed(block.norm2, y)
    expected = normed(model.norm, x) @ model.tokens.weight.T
    assert_close(model(tokens, torch.arange(5).expand(3, -1), context), expected)


@pytest.mark.parametrize("pattern", CROSS)
@pytest.mark.parametrize("attention", ["softmax", "linear_elu", "abc"])
def test_queries_of_a_context_have_no_places_and_later_ones_do_not_leak(
    pattern: Pattern, attention: str
) -> None:
    slots = AttentionSlots(factory(load(attention)), pattern)
    model = RecallModel(slots, 16, seq_len=5, context_len=12, embed_dim=8).double().eval()
    tokens, context = torch.randint(16, (3, 5)), torch.randint(16, (3, 12))
    read = torch.arange(5).expand(3, -1)
    logits = model(tokens, read, context)
    later = tokens.clone()
    later[:, 3:] = (later[:, 3:] + 1) % 16
    assert_close(model(later, read, context)[:, :3], logits[:, :3])  # each asks for itself
    assert_close(model(tokens.flip(1), read, context), logits.flip(1))
    for place in range(12):  # all of the context is seen: none of it is padding
        other = context.clone()
        other[:, place] = (other[:, place] + 1) % 16
        assert (model(tokens, read, other) != logits).any(dim=-1).all()


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, *CROSS])
def test_the_joined_model_is_its_formula(pattern: Pattern) -> None:
    slots = AttentionSlots(SoftmaxAttention, pattern)
    sizes = {"seq_len": 7, "context_len": 12 if pattern.is_cross else None, "embed_dim": 8}
    model = JoinedModel(slots, 16, **sizes, short_conv=2).double()  # type: ignore[arg-type]
    moved(model)
    tokens, context = torch.randint(16, (3, 7)), torch.randint(16, (3, 12))
    oldest, newest = model.join.weight.unbind(dim=-1)

    def joined(tokens: Tensor) -> Tensor:
        x = model.tokens.weight[tokens]
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return before @ oldest.T + x @ newest.T + cast(Tensor, model.join.bias)

    x, mixer = joined(tokens), cast(SoftmaxAttention, model.mixer)
    if pattern.is_cross:
        y = x + read_by(mixer, normed(model.norm1, x), normed(model.norm1, joined(context)))
    else:
        y = x + mixed(mixer, normed(model.norm1, x))
    read = torch.tensor([[1, 6], [0, 3], [2, 2]])
    expected = normed(model.norm2, y) @ model.unembed.weight.T + model.unembed.bias
    given = context if pattern.is_cross else None
    assert_close(model(tokens, read, given), expected[torch.arange(3)[:, None], read])


def test_it_has_as_many_parameters_as_the_authors_own() -> None:
    # zoology.model.LanguageModel with zoology.mixers.attention.MHA and torch.nn.Identity (Figure 2)
    for sizes, theirs in {(32, 32, 32): 10_816, (8192, 64, 64): 562_304}.items():
        assert sum(p.numel() for p in decoder(*sizes).parameters()) == theirs
