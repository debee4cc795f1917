"""Keys and values of all tokens so far, for mechanisms whose decoding needs every one of them."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor


def append(
    memory: Mapping[str, Tensor],
    position: int,
    padding_mask: Tensor | None = None,
    **new: Tensor,
) -> dict[str, Tensor]:
    """Write the positions from `position` on, in buffers whose room doubles when they are full.

    Args:
        memory: Buffers (B, H, room, D) by name, overwritten in place; {} for none yet.
        position: How many positions the buffers hold.
        padding_mask: Bool (B, N), of a context that is written at once; kept as "padding".
        **new: (B, H, N, D) by name.

    Returns:
        The buffers, with room for position + N at least.
    """
    if not memory:
        return new if padding_mask is None else new | {"padding": padding_mask}
    kept = {}
    for name, x in new.items():
        end, room = position + x.shape[-2], memory[name].shape[-2]
        buffer = memory[name]
        if end > room:
            buffer = F.pad(buffer, (0, 0, 0, max(end, 2 * room) - room))
        buffer[:, :, position:end] = x
        kept[name] = buffer
    return kept
