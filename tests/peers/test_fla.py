"""Linear attention, retention, lightning attention and ABC beside fla's plain PyTorch forms.

These compute in float32, which bounds the agreement. Their layout is (batch, length, heads, width),
but for the older retention and ABC.
"""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern
from attentions.lowrank.abc import AbcAttention
from tests.attentions.claims import build, draw
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes eight seconds

LENGTH = 70  # more than one chunk of the causal scan


def ours(name: str, **settings: Any) -> MultiHeadAttention:
    attention = build(name, Pattern.CAUSAL_SELF, **settings)
    assert isinstance(attention, MultiHeadAttention)
    return attention.float()


def heads(num: int, *, width: int = 8) -> list[Tensor]:
    return [draw(seed, 2, 2, LENGTH, width).float() for seed in range(num)]


def close(actual: Tensor, expected: Tensor) -> None:
    # Sums of 70 terms in float32, in another order.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_linear_elu_equals_normalised_linear_attention() -> None:
    naive = peer("fla.ops.linear_attn.naive").naive_recurrent_linear_attn
    q, k, v = heads(3)
    phi_q, phi_k, values = ((F.elu(x) + 1).transpose(1, 2) for x in (q, k, v))
    expected, _ = naive(phi_q, phi_k, values, normalize=True)
    close(ours("linear_elu").mix(q, k, F.elu(v) + 1), expected.transpose(1, 2))


@pytest.mark.parametrize("rotary_base", [None, 10000.0])
def test_retention_equals_fla_with_the_rotation_of_llama(rotary_base: float | None) -> None:
    naive = peer("fla.ops.retention.naive").naive_retention
    attention = ours("retention", value_expansion=1, rotary_base=rotary_base)
    q, k, v, gate = heads(4)
    actual = attention.mix(torch.cat([q, gate], dim=1), k, v)
    if rotary_base is not None:
        llama = peer("transformers.models.llama.modeling_llama")
        theta = rotary_base ** (-torch.arange(0, 8, 2) / 8)
        angle = (torch.arange(LENGTH)[:, None] * theta).repeat(1, 2)[None]
        q, k = llama.apply_rotary_pos_emb(q, k, angle.cos(), angle.sin())
    retained = naive(q, k, v)
    normed = retained / (retained.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    close(actual, normed * F.silu(gate))


@pytest.mark.parametrize("layer", [0, 3])
def test_lightning_has_the_decays_of_fla(layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its kernel needs a GPU: the decays that it is called with go to the plain form.
    module = peer("fla.ops.lightning_attn.chunk")
    naive = peer("fla.ops.simple_gla.naive").naive_recurrent_simple_gla
    decays: list[Tensor] = []
    monkeypatch.setattr(
        module, "chunk_simple_gla", lambda **kernel: decays.append(kernel["g_gamma"])
    )
    q, k, v, gate = heads(4)
    module.chunk_lightning_attn(*(x.transpose(1, 2) for x in (q, k, v)), layer, 4)

    attention = ours("lightning", layer=layer, num_layers=4, decay="paper")
    g = decays[0].expand(2, LENGTH, -1)
    qkv = (x.transpose(1, 2) for x in (F.silu(q), F.silu(k), v))
    mixed = naive(*qkv, g, scale=1.0)[0].transpose(1, 2)
    normed = mixed / (mixed.square().mean(dim=(1, 3), keepdim=True) + 1e-6).sqrt()
    close(attention.mix(torch.cat([q, gate], dim=1), k, v), normed * gate)


@pytest.mark.parametrize("form", ["naive_recurrent_abc", "naive_cumsum_abc"])
def test_abc_equals_fla_where_both_controls_agree(form: str) -> None:
    # There one set of logits controls the slots of keys and values; here k and v have their own.
    # They are made to agree: the controls read the half of the width that k and v have in common.
    naive = getattr(peer("fla.ops.abc.naive"), form)
    attention = ours("abc", num_slots=5)
    assert isinstance(attention, AbcAttention)
    control = torch.zeros(8, 5)
    control[:4] = draw(9, 4, 5).float() / math.sqrt(4)
    with torch.no_grad():
        attention.key_control.copy_(control)
        attention.value_control.copy_(control)
    q, k, v = heads(3)
    v[..., :4] = k[..., :4]
    expected, _ = naive(q, k, v, k @ control)
    close(attention.mix(q, k, v), expected)
