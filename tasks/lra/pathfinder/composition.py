"""The pixels of an image: the light of its dashes and its two markers, in grey levels."""

import functools

import numpy as np

from tasks.lra.pathfinder.geometry import geometry
from tasks.lra.pathfinder.lanes import NOWHERE
from tasks.lra.pathfinder.settings import Settings
from tasks.lra.pathfinder.stamps import LIGHT, markers

WHITE = 255


def draw(
    settings: Settings,
    margin: int,
    targets: np.ndarray,
    distractors: np.ndarray,
    marked: np.ndarray,
) -> np.ndarray:
    """Images uint8 (count, resolution, resolution).

    The dashes are scaled so that the brightest is 1, and laid over by the markers, whose overshoot
    is white.

    Args:
        settings: Of the images.
        margin: The one that they have.
        targets: Dashes of the targets, int32 (3, dashes, count), see `lanes`.
        distractors: Those of the distractors.
        marked: Rows and columns of the two markers, (2, 2, count).
    """
    size, count = settings.resolution, targets.shape[-1]
    lines = geometry(settings, margin).lines
    dim = np.rint(settings.target_contrast * lines).astype(np.int32)
    pad = lines.shape[-1] // 2
    line = np.zeros((count, size + 2 * pad, size + 2 * pad), dtype=np.int32)
    for dashes, stamps in ((targets, dim), (distractors, lines)):
        for row, column, stamp in dashes.swapaxes(0, 1):
            _lay(line, row, column, stamps, stamp)
    line = line[:, pad : pad + size, pad : pad + size]
    patches, place, peak = _markers(size, settings.marker_radius)
    # The quotient is that of whole numbers below 2^53, so rounding cannot change its floor.
    brightest = line.max(axis=(1, 2), keepdims=True).astype(np.float64) * peak
    level = (line * float(WHITE * LIGHT) / brightest).astype(np.uint8)
    pad = patches.shape[-1] // 2
    disc = np.zeros((count, size + 2 * pad, size + 2 * pad), dtype=np.uint8)
    flat = patches.reshape(-1, *patches.shape[2:])
    for row, column in marked.swapaxes(0, 1):
        _lay(disc, row, column, flat, place[row] * patches.shape[1] + place[column])
    return np.maximum(level, disc[:, pad : pad + size, pad : pad + size])


@functools.lru_cache(maxsize=16)
def _markers(resolution: int, radius: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Grey levels of the markers and their places, see `markers`; the intensity that is white."""
    patches, place = markers(resolution, radius)
    peak = int(patches[patches.shape[0] // 2, patches.shape[1] // 2].max())
    levels = np.clip(WHITE * patches // peak, 0, WHITE).astype(np.uint8)
    return levels, place, peak


def _lay(
    images: np.ndarray, row: np.ndarray, column: np.ndarray, stamps: np.ndarray, stamp: np.ndarray
) -> None:
    """Lay a stamp over each padded image, by the maximum; its centre at (row, column)."""
    there = np.flatnonzero(row > NOWHERE)
    side, width = stamps.shape[-1], images.shape[-1]
    cells = (np.arange(side)[:, None] * width + np.arange(side)).reshape(-1)
    at = (there * width + row[there]) * width + column[there]
    at = at[:, None] + cells
    flat = images.reshape(-1)
    flat[at] = np.maximum(flat[at], stamps.reshape(len(stamps), -1)[stamp[there]])
