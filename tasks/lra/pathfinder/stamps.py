"""The pictures of one dash and of one marker, on a fixed grid of values.

They are drawn at twice the size and shrunk with Pillow's Lanczos filter in floating point, whose
overshoot (values above 1 and below 0) is part of the images.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

SCALE = 2
"""Of anti-aliasing."""
ONE = 2**12
"""An occupied cell of a mask. Rounded so, no decision hangs on the last bit of a float."""
LIGHT = 2**20
"""The intensity 1 of a pixel."""


def shrink(canvas: np.ndarray, size: int) -> np.ndarray:
    """A square canvas with sides of `size` pixels, float64."""
    image = Image.fromarray(canvas.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS), dtype=np.float64)


def disc(radius: float) -> np.ndarray:
    """Whole-pixel offsets (offsets, 2) within the radius."""
    reach = np.arange(-int(radius), int(radius) + 1)
    y, x = np.meshgrid(reach, reach, indexing="ij")
    return np.stack([y, x], axis=-1)[y**2 + x**2 <= radius**2]


def dilate(images: np.ndarray, radius: int) -> np.ndarray:
    """The maximum over a disc around each pixel of (..., side, side), with `radius` more a side."""
    *batch, side, _ = images.shape
    wide = np.zeros((*batch, side + 2 * radius, side + 2 * radius), dtype=images.dtype)
    for y, x in disc(radius) + radius:
        part = wide[..., y : y + side, x : x + side]
        np.maximum(part, images, out=part)
    return wide


def dash(end: tuple[int, int], length: int, thickness: float, margin: int) -> np.ndarray:
    """A dash from the centre and the cells that it occupies with its margin, float64 (2, n, n).

    Args:
        end: Where it ends at twice the size, from where it begins (row, column).
        length: In pixels, as the others.
    """
    reach = length + math.ceil(thickness) + margin
    side = 2 * SCALE * reach + 1
    image = Image.new("F", (side, side), 0)
    centre = SCALE * reach
    ImageDraw.Draw(image).line(
        [(centre, centre), (centre + end[1], centre + end[0])],
        fill=1,
        width=round(SCALE * thickness),
    )
    line = np.asarray(image)
    radius = SCALE * margin
    mask = dilate(line, radius)[radius:-radius, radius:-radius]
    return np.stack([shrink(line, 2 * reach + 1), shrink(mask, 2 * reach + 1)])


def markers(resolution: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The patches of a marker, which Lanczos changes where the border of the image is near.

    Returns:
        The patches, int64 in units of `LIGHT`, (places, places, n, n) with the marker's place in
        the centre; and which of the places a row or a column of the image is, (resolution,).
    """
    reach = math.ceil(radius) + 4  # a pixel takes part within 3 of the disc
    edge = reach + 3  # and reads pixels within 3 of its own
    side = min(2 * edge + 1, resolution)
    y, x = np.ogrid[: SCALE * side, : SCALE * side]
    patches = np.zeros((side, side, 2 * reach + 1, 2 * reach + 1), dtype=np.int64)
    for row in range(side):
        for column in range(side):
            inside = (y - SCALE * row) ** 2 + (x - SCALE * column) ** 2 <= (SCALE * radius) ** 2
            wide = np.pad(shrink(inside, side), reach)
            patch = wide[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
            patches[row, column] = np.rint(LIGHT * patch)
    place = np.arange(resolution)
    place = np.maximum(np.minimum(place, edge), place - resolution + side)
    return patches, place
