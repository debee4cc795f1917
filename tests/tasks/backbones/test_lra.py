"""Long Range Arena's encoder; its agreement with the original is told in docs/tasks.md."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attentions.base import Pattern
from attentions.registry import factory, load
from tasks.backbones.lra import LraEncoder
from tasks.base import AttentionSlots

SIZES: dict[str, Any] = {"embed_dim": 8, "mlp_dim": 12, "num_layers": 2, "num_heads": 2}
ONE: dict[str, Any] = {"vocab_size": 11, "num_classes": 3, "max_len": 9}


def build(**changes: Any) -> Any:
    """An encoder in float64 that drops nothing, and whose parameters all matter."""
    torch.manual_seed(0)
    slots = AttentionSlots(factory(load("softmax")), Pattern.NONCAUSAL_SELF)
    model = LraEncoder(slots, **{**ONE, **SIZES, **changes}).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def draw(*shape: int) -> Tensor:
    return torch.randint(1, 11, shape, generator=torch.Generator().manual_seed(1))


def seen_masks(model: Any) -> list[Tensor | None]:
    """Collects the mask that each attention is given."""
    seen: list[Tensor | None] = []
    for block in model.blocks:
        block.attention.register_forward_pre_hook(
            lambda _, args, given: seen.append(given["key_padding_mask"]), with_kwargs=True
        )
    return seen


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("positions", ["learned", "interleaved"])
def test_padding_is_invisible(pooling: Any, positions: Any) -> None:
    model, tokens = build(pooling=pooling, positions=positions), draw(2, 9)
    is_padding = torch.arange(9).expand(2, -1) >= 5
    none = torch.zeros(2, 5, dtype=torch.bool)
    assert_close(model(tokens, is_padding), model(tokens[:, :5], none))


def test_the_mean_of_2020_runs_over_padding() -> None:
    model, tokens = build(pooling="mean", protocol="lra2020"), draw(2, 9)
    is_padding = torch.arange(9).expand(2, -1) >= 5
    other = torch.where(is_padding, tokens % 10 + 1, tokens)
    assert not torch.allclose(model(tokens, is_padding), model(other, is_padding))


@pytest.mark.parametrize(("protocol", "hidden"), [("fixed", False), ("lra2020", True)])
def test_the_cls_vector_is_hidden_with_the_first_token_in_2020_alone(
    protocol: Any, hidden: bool
) -> None:
    model, tokens = build(protocol=protocol), draw(2, 9)
    is_padding = torch.zeros(2, 9, dtype=torch.bool)
    is_padding[1, 0] = True
    seen = seen_masks(model)
    model(tokens, is_padding)
    for mask in seen:
        assert mask is not None
        assert mask[:, 0].tolist() == [False, hidden]
        assert torch.equal(mask[:, 1:], is_padding)


def test_images_have_no_padding_but_in_2020() -> None:
    image = {"grid": (3, 3), "pooling": "mean"}
    black = torch.zeros(2, 9, dtype=torch.bool)
    black[:, 4:] = True
    seen = {}
    for protocol in ("fixed", "lra2020"):
        model = build(**image, protocol=protocol)
        seen[protocol] = seen_masks(model)
        model(draw(2, 9), black)
    assert seen["fixed"] == [None, None]
    assert len(seen["lra2020"]) == 2
    assert all(mask is not None and torch.equal(mask, black) for mask in seen["lra2020"])


def test_the_grid_is_that_of_the_pixels_without_a_vector_before_them() -> None:
    for pooling, grid, length in (("mean", (3, 3), 9), ("cls", None, 10)):
        for block in build(grid=(3, 3), pooling=pooling).blocks:
            assert (block.attention.grid, block.attention.max_len) == (grid, length)


def states(model: Any, rows: Tensor) -> Tensor:
    """The normed states of all positions by the definition of the blocks."""
    x = model.tokens(rows)
    if model.cls is not None:
        x = torch.cat([model.cls.expand(len(x), 1, -1), x], dim=1)
    x = x + model.positions.rows[: x.shape[1]]
    for block in model.blocks:
        x = x + block.attention(block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    return model.norm(x)


@pytest.mark.parametrize("protocol", ["fixed", "lra2020"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_two_documents_meet_in_the_head_alone(pooling: Any, protocol: Any) -> None:
    model = build(num_documents=2, pooling=pooling, protocol=protocol)
    assert (model.cls is None) == (pooling == "mean" or protocol == "lra2020")
    tokens = draw(4, 2, 9)
    is_padding = torch.zeros_like(tokens, dtype=torch.bool)
    pooled = []
    for document in tokens.unbind(1):
        x = states(model, document)
        pooled.append(x[:, 0] if pooling == "cls" else x.mean(dim=1))
    a, b = pooled
    parts = [a, b, a * b, a - b] if protocol == "fixed" else [a, b]
    assert_close(model(tokens, is_padding), model.head(torch.cat(parts, dim=-1)))
    widths = [(layer.in_features, layer.out_features) for layer in model.head[::2]]
    assert widths == [(8 * len(parts), 12), (12, 6), (6, 3)]


def test_what_is_masked_is_not_seen() -> None:
    for documents, shape in ((1, (3, 9)), (2, (3, 2, 9))):
        model, tokens = build(num_documents=documents, masks=True), draw(*shape)
        is_padding = torch.zeros_like(tokens, dtype=torch.bool)
        masked = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.4
        logits = model.unmask(tokens, is_padding, masked)
        assert logits.shape == (masked.sum(), 11)
        other = torch.where(masked, tokens % 10 + 1, tokens)
        assert_close(model.unmask(other, is_padding, masked), logits)
        row = tuple(masked.nonzero()[4])  # its logits are the fifth, and hang on what is shown
        shown = (~masked[row[:-1]]).nonzero()[0]
        changed = tokens.clone()
        changed[(*row[:-1], shown)] += 1
        differs = (model.unmask(changed, is_padding, masked) != logits).any(dim=1)
        same_row = (masked.nonzero()[:, :-1] == torch.stack(row[:-1])).all(dim=1)
        assert torch.equal(differs, same_row)


def test_initial_values_are_those_of_flax() -> None:
    torch.manual_seed(0)
    slots = AttentionSlots(factory(load("softmax")), Pattern.NONCAUSAL_SELF)
    sizes: dict[str, Any] = {"embed_dim": 128, "mlp_dim": 256, "num_layers": 1, "num_heads": 2}
    model: Any = LraEncoder(slots, vocab_size=257, num_classes=10, max_len=5, **sizes)
    assert model.tokens.weight.std().item() == pytest.approx(1.0, rel=0.02)
    assert model.cls is not None
    assert not model.cls.any()
    first = model.head[0].weight
    assert first.std().item() == pytest.approx(128**-0.5, rel=0.02)
    assert first.abs().max().item() < 2 * 128**-0.5 / 0.8796  # cut off at two deviations
    wide = model.blocks[0].mlp[0]
    assert wide.weight.abs().max().item() == pytest.approx((6 / (128 + 256)) ** 0.5, rel=0.01)
    assert 0 < wide.bias.abs().max().item() < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "sum"}, "pooling must be one of .*, got 'sum'"),
        ({"protocol": "lra2021"}, "protocol must be one of .*, got 'lra2021'"),
        ({"num_documents": 3}, "num_documents must be 1 or 2, got 3"),
    ],
)
def test_what_is_not_there_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_documents_of_another_number_are_refused() -> None:
    is_padding = torch.zeros(2, 9, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"tokens must be \(batch, 2, length\), got \(2, 9\)"):
        build(num_documents=2)(draw(2, 9), is_padding)
