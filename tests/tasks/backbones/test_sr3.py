"""SR3's U-Net: its size against the published one, its places, and what reaches what."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from attentions import registry
from attentions.base import Attention, Pattern
from tasks.backbones.sr3 import UNet, Waves
from tasks.base import AttentionSlots

SIZES: dict[str, Any] = {
    "image_size": 8,
    "base_dim": 8,
    "multipliers": (1, 2, 3),
    "num_blocks": 2,
    "attention_resolutions": (4, 8),
    "num_groups": 4,
    "dropout": 0.5,
}


def build(attention: str = "softmax", **changes: Any) -> tuple[UNet, list[Attention]]:
    slots = AttentionSlots(registry.factory(registry.load(attention)), Pattern.NONCAUSAL_SELF)
    torch.manual_seed(0)
    return UNet(slots, **{**SIZES, **changes}).eval(), slots.under_test


def inputs(num_rows: int = 2, side: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return (
        torch.randn(num_rows, 3, side, side),
        torch.randn(num_rows, 3, side, side),
        torch.rand(num_rows),
    )


@pytest.mark.parametrize(
    ("resolutions", "published", "places"),
    [
        # The code that CAB ran, commit ef9b943, config/sr_sr3_16_128.json: its own attentions, at
        # 16; and those that CAB gave softmax and the other mechanisms.
        ((16,), 97_807_491, 6),
        ((16, 32, 64), 99_451_651, 16),
        ((16, 32, 64, 128), 99_534_531, 21),
    ],
)
def test_the_size_is_the_published_one_and_the_biases_of_the_projections(
    resolutions: tuple[int, ...], published: int, places: int
) -> None:
    with torch.device("meta"):
        slots = AttentionSlots(registry.factory(registry.load("softmax")), "all")
        model = UNet(slots, image_size=128, attention_resolutions=resolutions)
    biases = sum(3 * attention.embed_dim for attention in slots.under_test)
    assert len(slots.under_test) == places
    assert sum(p.numel() for p in model.parameters()) == published + biases


def test_places_know_their_images_and_stand_in_the_order_of_a_pass() -> None:
    model, places = build()
    assert [place.grid for place in places] == [(8, 8)] * 2 + [(4, 4)] * 2 + [(2, 2)] + [
        (4, 4)
    ] * 3 + [(8, 8)] * 3
    assert [place.embed_dim for place in places] == [8, 8, 16, 16, 24, 16, 16, 16, 8, 8, 8]
    assert [place.layer for place in places] == list(range(11))
    assert {place.num_layers for place in places} == {11}
    assert all(place.max_len == place.grid[0] * place.grid[1] for place in places if place.grid)
    seen: list[nn.Module] = []
    for place in places:
        place.register_forward_hook(lambda module, *_: seen.append(module))
    model(*inputs())
    assert seen == places


def test_tokens_are_pixels_row_by_row() -> None:
    class Shift(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens.roll(-1, dims=1) - tokens

    model, _ = build(num_blocks=1)
    block: Any = model.up[-1]
    x, level = torch.randn(2, 16, 8, 8), torch.randn(2, 8)
    block.attention = nn.Identity()
    whole = block(x, level)
    block.attention = Shift()
    moved = block(x, level)
    block.attention = None
    plain = block(x, level)
    normed = (whole - plain).flatten(2)
    assert_close((moved - plain).flatten(2), normed.roll(-1, 2) - normed, rtol=1e-4, atol=1e-5)


def test_every_pixel_hears_of_every_other_only_through_attention() -> None:
    # Without group normalisation, whose means are of the whole image, two convolutions a block
    # reach 12 pixels: in and out 1 each, five blocks 2 each.
    sizes = {"image_size": 32, "multipliers": (1,), "num_blocks": 1, "attention_resolutions": ()}
    reach = {}
    for name in ("none", "softmax"):
        model, _ = build(name, **sizes)
        model.double()
        for module in list(model.modules()):
            for key, child in list(module.named_children()):
                if isinstance(child, nn.GroupNorm):
                    setattr(module, key, nn.Identity())
        noisy, condition, level = (x.double() for x in inputs(1, side=32))
        condition.requires_grad_()
        (gradient,) = torch.autograd.grad(
            model(noisy, condition, level)[0, :, 0, 0].sum(), condition
        )
        seen = gradient.abs().sum(dim=(0, 1)) > 0
        reach[name] = int(seen.nonzero().max()), bool(seen.all())
    assert reach == {"none": (12, False), "softmax": (31, True)}


def test_the_level_is_told_to_every_block_and_rows_do_not_mix() -> None:
    model, _ = build()
    noisy, condition, level = inputs(3)
    whole = model(noisy, condition, level)
    other = model(noisy, condition, torch.cat([level[:2], 1 - level[2:]]))
    assert_close(other[:2], whole[:2])
    assert not torch.allclose(other[2], whole[2])
    alone = model(noisy[1:2], condition[1:2], level[1:2])
    assert_close(alone, whole[1:2], rtol=1e-4, atol=1e-5)


def test_waves_are_those_of_the_code() -> None:
    waves = Waves(6)(torch.tensor([0.25, 1.0], dtype=torch.float64))
    for row, x in zip(waves.tolist(), (0.25, 1.0), strict=True):
        angles = torch.tensor([x, x * 1e4 ** (-1 / 3), x * 1e4 ** (-2 / 3)]).double()
        assert row == pytest.approx([*angles.sin().tolist(), *angles.cos().tolist()])


def test_weights_start_orthogonal_but_for_those_of_the_mechanism() -> None:
    model, places = build(base_dim=16)
    weight = model.up[0].first[2].weight.flatten(1)  # type: ignore[union-attr]
    assert_close(weight @ weight.T, torch.eye(len(weight)), rtol=1e-4, atol=1e-4)
    projection = places[0].get_parameter("q_proj.weight")
    assert not torch.allclose(projection @ projection.T, torch.eye(16), atol=0.1)


def test_all_parameters_learn() -> None:
    model, _ = build()
    model(*inputs()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # The keys' bias moves every score of a query alike.
        assert parameter.grad.abs().max() > 0 or name.endswith("k_proj.bias"), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 6}, "image_size 6 cannot be halved 2 times"),
        ({"attention_resolutions": (16,)}, r"must be among \[8, 4, 2\], got 16"),
    ],
)
def test_bad_sizes_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)
