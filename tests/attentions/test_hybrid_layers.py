"""Which mechanism the layer hybrid has at which layer, alone and in a backbone."""

from typing import Any

import pytest
import torch

from attentions import registry
from attentions.base import Pattern, UnsupportedPattern
from attentions.hybrid.hybrid_layers import HybridLayers
from attentions.linear.linear_elu import LinearAttention
from attentions.softmax.softmax import SoftmaxAttention
from tasks.backbones.gpt2 import Gpt2
from tasks.base import AttentionSlots
from tests.attentions.claims import build, draw, inputs


def hybrid(pattern: Pattern = Pattern.CAUSAL_SELF, **settings: Any) -> HybridLayers:
    attention = build("hybrid_layers", pattern, **settings)
    assert isinstance(attention, HybridLayers)
    return attention


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0, "ffffffff"),  # all softmax
        (1, "lflflflf"),
        (3, "lllflllf"),
        (6, "llllllfl"),
        (None, "llllllll"),  # all linear
    ],
)
def test_full_attention_follows_every_so_many_linear_layers(
    ratio: int | None, expected: str
) -> None:
    layers = [hybrid(ratio=ratio, layer=layer).part for layer in range(8)]
    kinds = {"l": LinearAttention, "f": SoftmaxAttention}
    assert [type(layer) for layer in layers] == [kinds[letter] for letter in expected]


@pytest.mark.parametrize("pattern", list(Pattern))
@pytest.mark.parametrize(("layer", "name"), [(2, "linear_elu"), (3, "softmax")])
def test_at_its_layer_it_is_the_mechanism_itself(pattern: Pattern, layer: int, name: str) -> None:
    attention, part = hybrid(pattern, layer=layer), build(name, pattern)
    part.load_state_dict(attention.part.state_dict())
    query, context = inputs(pattern, 9)
    assert torch.equal(attention(query, context), part(query, context))


def gpt2(num_layers: int, ratio: int | None) -> tuple[Gpt2, AttentionSlots]:
    config = registry.load("hybrid_layers")
    config.update({"linear": "linear_elu", "ratio": ratio})
    slots = AttentionSlots(registry.factory(config), Pattern.CAUSAL_SELF)
    model = Gpt2(slots, 11, max_len=10, num_layers=num_layers, embed_dim=8, num_heads=2, ffn_dim=8)
    return model, slots


def test_a_backbone_has_each_mechanism_at_its_layers() -> None:
    model, slots = gpt2(num_layers=7, ratio=2)
    parts = [layer.part for layer in slots.under_test if isinstance(layer, HybridLayers)]
    assert [isinstance(part, SoftmaxAttention) for part in parts] == [0, 0, 1, 0, 0, 1, 0]
    assert model(torch.randint(11, (2, 10))).isfinite().all()


def test_parts_have_the_settings_of_their_own_yamls() -> None:
    part = hybrid(linear="cca_core", full="gqa", layer=0).part
    assert part.group_size == registry.load("cca_core").group_size
    assert hybrid(linear="cca_core", full="gqa", layer=3, ratio=3).part.num_kv_heads == 1


def test_the_state_is_that_of_the_part() -> None:
    sizes = {}
    for layer in (2, 3):
        attention = hybrid(layer=layer)
        _, state = attention.prefill(draw(0, 3, 50, 16), attention.init_state(3))
        sizes[layer] = state.num_bytes
    assert sizes[2] == 3 * 2 * 8 * (8 + 1) * 8  # batch, heads, D (D + 1), bytes
    assert sizes[3] == 3 * 50 * 2 * 16 * 8  # batch, length, k and v, embed_dim, bytes


@pytest.mark.parametrize("layer", [0, 3])
def test_a_pattern_that_one_part_lacks_is_refused_at_every_layer(layer: int) -> None:
    message = (
        "HybridLayers of linformer and softmax has no causal_self "
        r"\(linformer: each projected key .*\); it has: noncausal_self, noncausal_cross"
    )
    with pytest.raises(UnsupportedPattern, match=message):
        hybrid(linear="linformer", layer=layer)


def test_a_backbone_too_shallow_for_full_attention_is_refused() -> None:
    assert isinstance(hybrid(ratio=2, layer=2, num_layers=3).part, SoftmaxAttention)
    message = "2 layers hold no softmax after every 2 of linear_elu: ratio must be below num_layers"
    with pytest.raises(ValueError, match=message):
        gpt2(num_layers=2, ratio=2)
    gpt2(num_layers=2, ratio=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": -1}, "ratio must not be negative, got -1"),
        ({"layer": -1}, "layer must not be negative, got -1"),
        ({"layer": 4, "num_layers": 4}, "layer must be below num_layers, got 4 and 4"),
        ({"full": "softmx"}, "unknown attention 'softmx', did you mean 'softmax'"),
        ({"full": "hybrid_layers"}, "its parts must be other mechanisms than itself"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hybrid(**settings)
