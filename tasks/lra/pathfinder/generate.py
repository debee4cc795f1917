"""Images of Pathfinder: do two markers sit on the two ends of one dashed snake?

Source: Linsley et al., "Learning long-range spatial dependencies with horizontal gated recurrent
units", NeurIPS 2018, arXiv:1805.08315, and its generator; the sets of Tay et al., "Long Range
Arena", ICLR 2021, arXiv:2011.04006.

An image has two target snakes of `contour_len` dashes, shorter distractors, and two discs: on both
ends of one target (label 1) or on an end of each (label 0). The same seed gives the same images on
any machine: what is decided is decided on integers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.lra.pathfinder.composition import draw
from tasks.lra.pathfinder.lanes import Lanes
from tasks.lra.pathfinder.settings import Settings

VERSION = 1
"""Of the images that a seed gives."""
BLOCK_PIXELS = 2**19
"""Images are finished so many at a time that their maps stay near."""


class Images(NamedTuple):
    """Images and what is known of them.

    Attributes:
        images: uint8 (count, resolution, resolution).
        labels: int64 (count,); 1 if the markers are on the ends of one snake.
        markers: Their rows and columns, uint16 (count, 2, 2).
        margins: The free pixels around the dashes, uint8 (count,).
        num_distractors: How many found room, uint8 (count,).
        snakes: The dashes of the two targets in their order, int32 (count, 2, contour_len, 3): row
            and column where its drawing begins (the tail of the first, the head of the others) and
            the stamp (see `geometry`).
    """

    images: np.ndarray
    labels: np.ndarray
    markers: np.ndarray
    margins: np.ndarray
    num_distractors: np.ndarray
    snakes: np.ndarray


def generate(seed: int | Sequence[int], count: int, settings: Settings) -> Images:
    """Independent images.

    Args:
        seed: Of all of them.
        count: How many.
        settings: See `Settings`.
    """
    rng = np.random.default_rng(seed)
    size, length = settings.resolution, settings.contour_len
    labels = rng.integers(2, size=count)
    margins = np.array(settings.margins)[rng.integers(len(settings.margins), size=count)]
    origins = rng.integers(2, size=count)  # the target that the first marker is on
    made = Images(
        images=np.empty((count, size, size), dtype=np.uint8),
        labels=labels,
        markers=np.empty((count, 2, 2), dtype=np.uint16),
        margins=margins.astype(np.uint8),
        num_distractors=np.empty(count, dtype=np.uint8),
        snakes=np.empty((count, 2, length, 3), dtype=np.int32),
    )
    for margin in sorted(set(settings.margins)):
        lanes = Lanes(settings, margin, rng)
        chosen = np.flatnonzero(margins == margin)
        step = max(1, BLOCK_PIXELS // size**2)
        targets = lanes.targets(len(chosen))
        for begin in range(0, len(chosen), step):
            rows = chosen[begin : begin + step]
            block = type(targets)(*(part[..., begin : begin + step] for part in targets))
            distractors, placed = lanes.distractors(block)
            each = np.arange(len(rows))
            origin = origins[rows]
            other = np.where(labels[rows] == 1, origin, 1 - origin)
            marked = np.stack(
                [block.tails[:, origin, each], block.heads[:, other, each]], axis=1
            )  # (2, markers, images)
            snakes = lanes.anchored(block.dashes)
            made.images[rows] = draw(settings, margin, snakes, distractors, marked)
            made.markers[rows] = marked.T
            made.num_distractors[rows] = placed.sum(axis=0)
            made.snakes[rows] = snakes.reshape(3, length, 2, -1).transpose(3, 2, 1, 0)
    return made
