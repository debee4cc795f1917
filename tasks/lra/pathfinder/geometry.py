"""What a step of a snake needs, computed once: directions, turns, and how dashes block each other.

A dash is told by its anchor (the pixel where its drawing begins) and its stamp. A first dash begins
at its tail in one of 360 directions; a later one begins at its head and goes back, and its head is
one of K pixels around the pivot. What an earlier dash does to the K choices depends on the place of
the pivot relative to it alone, so it is one row of a table (`Clearance`) for each such place.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from tasks.lra.pathfinder.settings import Settings
from tasks.lra.pathfinder.stamps import LIGHT, ONE, SCALE, dash, dilate

DEGREES = np.arange(-180, 180)
SIN_PI, COS_HALF_PI = 1.2246467991473532e-16, 6.123233995736766e-17
"""Of the floating-point numbers nearest to these angles."""
FULL = math.ceil(1.8 * ONE)
"""Two masks that add up to this somewhere collide."""
FREE = math.floor(0.3 * ONE)
"""A cell up to this is free to put a first dash on."""
OUTSIDE = 4 * ONE
"""In place of the occupancy of a pixel that the image does not have."""


def up(points: np.ndarray | int, moves: np.ndarray) -> np.ndarray:
    """Where moves lead from whole points: rounded up, as all of the original's are."""
    return np.ceil(points + moves).astype(np.int32)


def directions(degrees: np.ndarray) -> np.ndarray:
    """Sine and cosine, (degrees, 2)."""
    return np.stack([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))], axis=1)


def moves(distance: int, toward: np.ndarray) -> np.ndarray:
    """A distance in each direction (directions, 2), whole where it is but for 1e-9.

    Except along the axes: in the original, sin(pi) and cos(pi / 2) are a bit above 0, so that where
    a coordinate is small enough to keep that bit a move to the left goes down by one, and a move up
    or down to the right.
    """
    exact = distance * toward
    exact = np.where(np.abs(exact - np.rint(exact)) < 1e-9, np.rint(exact), exact)
    left = (exact[:, 0] == 0) & (exact[:, 1] < 0) & ~np.signbit(toward[:, 0])  # pi, not -pi
    exact[left, 0] = distance * SIN_PI
    exact[exact[:, 1] == 0, 1] = distance * COS_HALF_PI
    return exact


@dataclass(frozen=True)
class Geometry:
    """Of one margin. A heading is one of 360 degrees, or 360 + k of the choice k.

    Attributes:
        choices: Where a head can be, from its pivot, int32 (K, 2), sorted.
        stamp: Of a dash of each heading, int (360 + K,).
        step: From a pivot to the next, float64 (360 + K, 2), to be rounded by `up`.
        first_head: From the tail of a first dash to its head, likewise, (360, 2).
        first_pivot: From that head to the pivot, likewise.
        weights: Of each choice after a dash of each heading, int32 (360 + K, K), `ONE` straight on.
        lines: Of each stamp, int32 (stamps, n, n) in units of `LIGHT`, without the overshoot below.
        masks: int16 (stamps, n, n) in units of `ONE`, in the same places.
        taps: For each stamp, the cells that a first dash needs free, from its tail; none where the
            original never starts in these directions.
    """

    choices: np.ndarray
    stamp: np.ndarray
    step: np.ndarray
    first_head: np.ndarray
    first_pivot: np.ndarray
    weights: np.ndarray
    lines: np.ndarray
    masks: np.ndarray
    taps: list[np.ndarray]


@functools.lru_cache(maxsize=16)
def geometry(settings: Settings, margin: int) -> Geometry:
    """What depends on the settings and one of the margins."""
    length, reach = settings.dash_len, settings.dash_len + margin
    angles = np.arange(math.ceil(2 * math.pi * reach)) / reach
    around = reach * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    choices = np.unique(np.floor(np.round(around, 9)).astype(np.int32), axis=0)
    toward = np.concatenate(
        [
            directions(DEGREES),
            choices / np.hypot(choices[:, 0], choices[:, 1])[:, None],
        ]
    )  # (headings, 2)
    drawn = np.concatenate([toward[:360], -toward[360:]])
    drawn = np.round(SCALE * length * drawn, 9)
    ends, stamp = np.unique(up(0, drawn), axis=0, return_inverse=True)
    pictures = np.stack(
        [dash((int(y), int(x)), length, settings.thickness, margin) for y, x in ends], axis=1
    )
    lines, masks = pictures
    angle = np.arctan2(toward[:, 0], toward[:, 1])
    turn = np.abs(angle[:, None] - angle[360:])
    turn = settings.continuity * np.minimum(turn, 2 * np.pi - turn)
    return Geometry(
        choices=choices,
        stamp=stamp.reshape(-1),
        step=moves(length + 2 * margin, toward),
        first_head=moves(length, toward[:360]),
        first_pivot=moves(reach, -toward[:360]),
        weights=np.rint(ONE * np.cos(np.minimum(turn, np.pi / 2)) ** 2).astype(np.int32),
        lines=np.rint(LIGHT * np.maximum(lines, 0)).astype(np.int32),
        masks=np.rint(ONE * masks).astype(np.int16),
        taps=[_taps(mask, reach, settings.original_poses) for mask in masks],
    )


def _taps(mask: np.ndarray, reach: int, original: bool) -> np.ndarray:
    """The cells under a first dash, from its tail, int (taps, 2).

    The original reads them from a window of `reach` cells around the tail, where it draws the dash
    one cell further than it takes it to be. Where no cell lies in one of the four quadrants, the
    window is off the image at one of its corners, and that makes the original find no place at all.
    """
    cells = np.argwhere(mask >= 1 - 1e-6) - len(mask) // 2
    if not original:
        return cells
    taps = cells + 1
    taps = taps[(np.abs(taps) <= reach).all(axis=1)]
    quadrants = [(taps * signs >= 0).all(axis=1).any() for signs in ((1, 1), (1, -1), (-1, 1))]
    quadrants.append((taps <= 0).all(axis=1).any())
    return taps if all(quadrants) else taps[:0]


@dataclass(frozen=True)
class Clearance:
    """How occupied each choice is, and whether it is forbidden, around each pivot.

    Row 0 is of what is out of reach. A dash of stamp s has `side`^2 rows, for the places of the
    pivot around its middle; the border of the image has a row for each pivot.

    Attributes:
        occupied: Of the pixel of each choice, int16 (rows, K); `OUTSIDE` if there is none.
        forbidden: Bit k is set where a dash of choice k would collide, uint64 (rows,).
        corner: From an anchor to the first place that has a row, int32 (stamps, 2).
        side: See above.
        border: The first row of the border.
        border_reach: How far from the image its pivots begin.
    """

    occupied: np.ndarray
    forbidden: np.ndarray
    corner: np.ndarray
    side: int
    border: int
    border_reach: int


@functools.lru_cache(maxsize=16)
def clearance(settings: Settings, margin: int) -> Clearance:
    """The tables of a margin; see `Clearance`."""
    made = geometry(settings, margin)
    near = made.masks.shape[-1] // 2
    masks = np.maximum(made.masks, 0)  # an occupancy map begins at 0
    # Over all places of a pivot within `far` of the anchor; cut to what is not zero below.
    far = 2 * near + int(np.abs(made.choices).max())
    occupied = _around(dilate(masks, margin), made.choices, far)
    forbidden = np.zeros(occupied.shape[:3], dtype=np.uint64)
    collisions = {
        stamp: _collisions(masks, made.masks[stamp]) for stamp in np.unique(made.stamp[360:])
    }
    for k, (choice, stamp) in enumerate(zip(made.choices, made.stamp[360:], strict=True)):
        here = _around(collisions[stamp], choice[None], far)[..., 0]
        forbidden |= here.astype(np.uint64) << np.uint64(k)
    matters = (occupied != 0).any(axis=-1) | (forbidden != 0)
    middle = np.stack([(_span(matters.any(2))), _span(matters.any(1))], axis=1)  # (stamps, 2, 2)
    centre = middle.sum(axis=2) // 2
    half = int(np.maximum(centre - middle[..., 0], middle[..., 1] - centre).max())
    pad = ((0, 0), (half, half), (half, half))
    occupied, forbidden = np.pad(occupied, (*pad, (0, 0))), np.pad(forbidden, pad)
    side = 2 * half + 1
    cut = [(s, slice(y, y + side), slice(x, x + side)) for s, (y, x) in enumerate(centre)]
    at_border = _border(settings, margin, made)
    num_choices = len(made.choices)
    return Clearance(
        occupied=np.concatenate(
            [
                np.zeros((1, num_choices), dtype=np.int16),
                *(occupied[part].reshape(-1, num_choices) for part in cut),
                at_border[0].reshape(-1, num_choices),
            ]
        ),
        forbidden=np.concatenate(
            [
                np.zeros(1, dtype=np.uint64),
                *(forbidden[part].reshape(-1) for part in cut),
                at_border[1].reshape(-1),
            ]
        ),
        corner=(centre - far - half).astype(np.int32),
        side=side,
        border=1 + len(cut) * side**2,
        border_reach=_border_reach(margin),
    )


def _around(maps: np.ndarray, offsets: np.ndarray, far: int) -> np.ndarray:
    """Values of maps (..., side, side) around their centre, read off each of `far` places a side.

    Returns:
        (..., 2 far + 1, 2 far + 1, offsets).
    """
    pad = far + int(np.abs(offsets).max()) - maps.shape[-1] // 2
    wide = np.pad(maps, [(0, 0)] * (maps.ndim - 2) + [(pad, pad)] * 2)
    size, begin = 2 * far + 1, int(np.abs(offsets).max())
    parts = [
        wide[..., begin + y : begin + y + size, begin + x : begin + x + size] for y, x in offsets
    ]
    return np.stack(parts, axis=-1)


def _collisions(masks: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Whether a mask collides with each of the masks (stamps, n, n), at all places of its anchor.

    Returns:
        bool (stamps, 2 n - 1, 2 n - 1), from one anchor to the other.
    """
    stamps, side, _ = masks.shape
    found = np.zeros((stamps, 2 * side - 1, 2 * side - 1), dtype=bool)
    for y, x in np.argwhere(mask >= FULL - masks.max()):
        part = found[:, side - 1 - y : 2 * side - 1 - y, side - 1 - x : 2 * side - 1 - x]
        part |= masks >= FULL - mask[y, x]
    return found


def _span(any_on: np.ndarray) -> np.ndarray:
    """First and last true place of each row, (rows, 2)."""
    last = any_on.shape[1] - 1 - any_on[:, ::-1].argmax(axis=1)
    return np.stack([any_on.argmax(axis=1), last], axis=1)


def _border_reach(margin: int) -> int:
    """How far out of the image a pivot can be: a margin ahead of a head inside, rounded twice."""
    return margin + 3


def _border(settings: Settings, margin: int, made: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """What the border does to the choices, for each pivot: occupied, forbidden."""
    size, padding = settings.resolution, settings.padding
    blocked = np.ones((size, size), dtype=np.int16)
    blocked[padding:-padding, padding:-padding] = 0
    dilated = dilate(ONE * blocked, margin)[margin:-margin, margin:-margin]
    out = int(np.abs(made.choices).max()) + _border_reach(margin)
    dilated = np.pad(dilated, out, constant_values=OUTSIDE)
    pivots = size + 2 * _border_reach(margin)
    near = made.masks.shape[-1] // 2
    wide = np.pad(blocked.astype(bool), near)
    occupied = np.empty((pivots, pivots, len(made.choices)), dtype=np.int16)
    forbidden = np.zeros((pivots, pivots), dtype=np.uint64)
    hits = {}
    for stamp in np.unique(made.stamp[360:]):
        hit = np.zeros((size, size), dtype=bool)
        for y, x in np.argwhere(made.masks[stamp] >= FULL - ONE):
            hit |= wide[y : y + size, x : x + size]
        hits[stamp] = np.pad(hit, out)
    begin = out - _border_reach(margin)
    for k, ((y, x), stamp) in enumerate(zip(made.choices, made.stamp[360:], strict=True)):
        here = (slice(begin + y, begin + y + pivots), slice(begin + x, begin + x + pivots))
        occupied[..., k] = dilated[here]
        forbidden |= hits[stamp][here].astype(np.uint64) << np.uint64(k)
    return occupied, forbidden


def first_places(settings: Settings, margin: int) -> np.ndarray:
    """Where the first dash of the first target can have its tail, for each degree.

    All its cells must lie in the middle, at least twice the seed distance off the border, so these
    places form a rectangle.

    Returns:
        int (directions, 5): heading, first row, rows, first column, columns.

    Raises:
        ValueError: If there is none.
    """
    made = geometry(settings, margin)
    begin = max(2 * settings.seed_distance, settings.padding)
    end = settings.resolution - begin
    places = []
    for heading in range(360):
        taps = made.taps[made.stamp[heading]]
        if len(taps):
            low, high = begin - taps.min(axis=0), end - taps.max(axis=0)
            rows, columns = high - low
            if rows > 0 and columns > 0:
                places.append((heading, low[0], rows, low[1], columns))
    if not places:
        taps = [len(np.unique(taps[:, 0])) for taps in made.taps if len(taps)]
        raise ValueError(
            "pathfinder: the first dash does not fit: its cells' rows + 2 max(2 seed_distance, "
            f"padding) <= resolution, got {min(taps, default=0)} + {2 * begin} > "
            f"{settings.resolution} for the shortest"
        )
    return np.array(places)
