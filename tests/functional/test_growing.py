"""Buffers that grow, against concatenation."""

import pytest
import torch

from attentions.functional.growing import append


@pytest.mark.parametrize("lengths", [[1] * 9, [5, 1, 1], [3, 20, 1], [2, 2, 2, 2]])
def test_what_was_appended_is_there(lengths: list[int]) -> None:
    parts = [{name: torch.randn(2, 3, n, 4) for name in "kv"} for n in lengths]
    kept = [{name: x.clone() for name, x in part.items()} for part in parts]
    memory, position, rooms = {}, 0, []
    for part, length in zip(parts, lengths, strict=True):
        memory = append(memory, position, **part)
        position += length
        rooms.append(memory["k"].shape[2])
        assert position <= rooms[-1] <= 2 * position
    for name in "kv":
        expected = torch.cat([part[name] for part in kept], dim=2)
        assert torch.equal(memory[name][:, :, :position], expected)
    # Doubling: so few moves that a token costs the same however many there are.
    assert len(set(rooms)) <= 1 + position.bit_length()
    assert torch.equal(parts[0]["k"], kept[0]["k"])  # the caller's own is not written to
