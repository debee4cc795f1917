"""Gated DeltaNet by its recurrence over positions: DeltaNet's with alpha, and a gate."""

from typing import Any

from torch import Tensor

from tests.oracles import merge
from tests.oracles.deltanet import delta_layer

BLOCK = 64  # the chunk of the delta rule


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    def alpha(x: Tensor) -> Tensor:
        step = (1 + (x @ attention.decay_proj.weight.T + attention.decay_shift).exp()).log()
        return (-attention.log_rate.exp() * step).exp().mT

    masks = (query_padding_mask, key_padding_mask)
    normed = delta_layer(attention, query, context, *masks, decay=alpha)
    gate = query @ attention.gate_proj.weight.T + attention.gate_proj.bias
    gate = gate.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    return merge(attention, normed * gate * gate.sigmoid())
