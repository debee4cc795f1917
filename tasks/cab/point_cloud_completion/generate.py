"""Axles with pegs on them: clouds whose hidden part can be told only by looking far.

An axle lies along x; it is not seen itself. At its end is a crown: teeth in all directions around
it, each of another length. Along it stand pegs, each in the direction of one of the teeth. Under
each peg hangs a weight, which is hidden, as low as the tooth of the peg's direction is long.

    seen    a mark at (x_i, a cos p, a sin p) for peg i of direction p, and
            a mark at (x + length, a cos q, a sin q) for the tooth of direction q
    hidden  a mark at (x_i, y - length, 0) for peg i, with the length of the tooth of direction p

So what completes weight i must read its peg (noncausal cross: it is given nothing itself); and how
low it hangs a peg can only know from the tooth of its own direction (noncausal self).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_PEGS, NUM_TEETH = 4, 6
RADIUS = 0.2
"""How far pegs and teeth stand off the axle."""
FIRST, GAP = -0.5, 0.25
"""Where the first peg is, and how far the next."""
CROWN, WEIGHTS = 0.5, -0.3
"""The x of a tooth of no length, and the y of a weight that hangs by none."""
LONGEST = 0.3
MARK = 0.01
"""Half the side of the four points of a mark."""


class Clouds(NamedTuple):
    """Scans and what they are of.

    Attributes:
        scan: (rows, 4 * (pegs + teeth), 3), in random order.
        complete: (rows, 4 * (2 * pegs + teeth), 3).
    """

    scan: Tensor
    complete: Tensor


def generate(num_clouds: int, seed: int) -> Clouds:
    """Clouds as the module describes them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Tensor:
        return torch.rand(num_clouds, size, generator=generator)

    direction = 2 * math.pi * (torch.arange(NUM_TEETH) + draw(1)) / NUM_TEETH
    length = LONGEST * draw(NUM_TEETH)
    chosen = (draw(NUM_PEGS) * NUM_TEETH).long()
    pegs = (FIRST + GAP * torch.arange(NUM_PEGS)).expand(num_clouds, -1)
    of_peg = direction.gather(1, chosen)
    near = _marks(pegs, RADIUS * of_peg.cos(), RADIUS * of_peg.sin())
    crown = _marks(CROWN + length, RADIUS * direction.cos(), RADIUS * direction.sin())
    weights = _marks(pegs, WEIGHTS - length.gather(1, chosen), torch.zeros_like(pegs))
    scan = torch.cat([near, crown], dim=1)
    order = draw(scan.shape[1]).argsort(dim=1)[..., None].expand(-1, -1, 3)
    scan = scan.gather(1, order)
    return Clouds(scan, torch.cat([scan, weights], dim=1))


def _marks(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Four points around each (x, y, z), a square across z: (rows, 4 * marks, 3)."""
    centre = torch.stack([x, y, z], dim=-1)
    corners = MARK * torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0]))
    corners = F.pad(corners, (0, 1))  # (4, 3)
    return (centre[:, :, None] + corners).flatten(1, 2)
