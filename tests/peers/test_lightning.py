"""Lightning attention beside the layer of MiniMax-Text-01, its authors' model, in transformers.

That layer has swish on the values, an RMS with weights and a sigmoid gate where ours has the
paper's; what stands between, with the decays of each head and layer, is the same.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.linear.lightning import LightningAttention
from tests.attentions.claims import build, draw
from tests.peers import peer, split

pytestmark = pytest.mark.slow  # the import alone takes six seconds


def of_minimax(layer: int, num_layers: int, x: Tensor) -> dict[str, Tensor]:
    """What their layer makes of x (B, L, E): q, k and v before the swish, and the normed sums."""
    minimax = peer("transformers.models.minimax.modeling_minimax")
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "block_size": 16, "hidden_act": "silu"}
    kinds = ["linear_attention"] * num_layers
    config = SimpleNamespace(**sizes, num_hidden_layers=num_layers, layer_types=kinds)
    attention: Any = minimax.MiniMaxLightningAttention(config, layer_idx=layer).double()
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, arguments: Any, output: Tensor) -> None:
        seen["normed"] = output

    attention.norm.register_forward_hook(keep)
    attention(x, None, None)
    heads = attention.qkv_proj(x).unflatten(-1, (4, 24)).transpose(1, 2)
    return seen | dict(zip("qkv", heads.split(8, dim=-1), strict=True))


@pytest.mark.parametrize(("layer", "num_layers"), [(0, 2), (1, 2), (3, 12)])
@pytest.mark.parametrize("length", [15, 16, 70])
@torch.no_grad()
def test_sums_agree_with_minimax(layer: int, num_layers: int, length: int) -> None:
    theirs = of_minimax(layer, num_layers, draw(0, 2, length, 32))
    ours = build(
        "lightning",
        Pattern.CAUSAL_SELF,
        embed_dim=32,
        num_heads=4,
        layer=layer,
        num_layers=num_layers,
    )
    assert isinstance(ours, LightningAttention)
    q, k, v = (theirs[name] for name in "qkv")
    mixed = ours.mix(torch.cat([q, torch.ones_like(q)], dim=1), k, F.silu(v))
    # Their rates have 1e-5 more in the denominator of the layer's share.
    torch.testing.assert_close(mixed, split(theirs["normed"], 4), rtol=1e-3, atol=1e-3)
