"""Images whose detail is told far away: each kind of cell has a pattern, and a sign says which.

An image is a square of cells. The small image has one pixel for each, its mean colour:

    red    which of the kinds the cell is
    green  of a sign, which pattern its kind has in this image; of another cell, chance
    blue   whether it is a sign

Each kind has one sign, anywhere. In the large image every cell bears the pattern of its kind, whose
mean is zero, so that nothing of it is in the small image but the sign.

What a cell looks like must be looked up by its kind at a place that no convolution knows.
"""

from typing import NamedTuple

import numpy as np

from tasks.cab.super_resolution.images import resized

LIGHT, DARK = 192, 64


class Images(NamedTuple):
    """uint8 (rows, side, side, 3) each; see `tasks.cab.super_resolution.images.read_folder`."""

    original: np.ndarray
    enlarged: np.ndarray
    small: np.ndarray


def patterns(side: int) -> np.ndarray:
    """Signs of the deviations from the mean colour, int (3, side, side): stripes and squares."""
    rows, columns = np.indices((side, side))
    return 1 - 2 * np.stack([rows % 2, columns % 2, (rows + columns) % 2])


def generate(
    num_rows: int, seed: int, *, small: int, large: int, num_kinds: int, contrast: int = 60
) -> Images:
    """Rows as the module describes them.

    Args:
        num_rows: How many.
        seed: Of the draws.
        small: Cells along a side.
        large: Pixels along a side, an even number for each cell.
        num_kinds: Of cells.
        contrast: Of the patterns, to both sides of the mean.

    Raises:
        ValueError: If the cells have no even number of pixels, or are fewer than twice the kinds.
    """
    if large % (2 * small):
        raise ValueError(f"large must be an even multiple of small, got {large} and {small}")
    if not 0 < num_kinds <= small * small // 2:
        raise ValueError(f"num_kinds must be 1 to {small * small // 2}, got {num_kinds}")
    draw = np.random.default_rng(seed)
    cells = small * small
    looks = patterns(large // small)
    kinds = draw.integers(num_kinds, size=(num_rows, cells))
    chosen = draw.integers(len(looks), size=(num_rows, num_kinds))
    signs = draw.random((num_rows, cells)).argsort(axis=1)[:, :num_kinds]
    np.put_along_axis(kinds, signs, np.arange(num_kinds)[None], axis=1)
    said = draw.integers(len(looks), size=(num_rows, cells))
    np.put_along_axis(said, signs, chosen, axis=1)
    is_sign = np.zeros((num_rows, cells), dtype=int)
    np.put_along_axis(is_sign, signs, 1, axis=1)

    def between(step: np.ndarray, num_steps: int) -> np.ndarray:
        return DARK + (LIGHT - DARK) * step // max(num_steps - 1, 1)

    colours = [between(kinds, num_kinds), between(said, len(looks)), between(is_sign, 2)]
    shape = (num_rows, small, small)
    little = np.stack(colours, axis=-1).reshape(*shape, 3)
    look = looks[np.take_along_axis(chosen, kinds, axis=1)].reshape(*shape, *looks.shape[1:])
    detail = look.transpose(0, 1, 3, 2, 4).reshape(num_rows, large, large, 1)
    factor = large // small
    mean = little.repeat(factor, axis=1).repeat(factor, axis=2)
    original, little = (mean + contrast * detail).astype(np.uint8), little.astype(np.uint8)
    enlarged = np.stack([resized(image, large) for image in little])
    return Images(original, enlarged, little)
