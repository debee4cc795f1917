"""Snakes grown in lanes: many attempts at once, of which those that fail are dropped at each dash.

A step of a lane reads one row of a table for each dash that is near (see `geometry.Clearance`), so
nothing is drawn until the image is known to succeed. Dashes are int32 arrays (3, dashes, lanes):
row and column of the anchor, moved by `Clearance.corner` of the stamp, and the stamp. `NOWHERE` is
the row of a dash that is not there.
"""

from typing import NamedTuple

import numpy as np

from tasks.lra.pathfinder.geometry import (
    FREE,
    OUTSIDE,
    Clearance,
    Geometry,
    clearance,
    directions,
    first_places,
    geometry,
    up,
)
from tasks.lra.pathfinder.settings import Settings
from tasks.lra.pathfinder.stamps import ONE

NOWHERE = -(2**14)
LANES = 8192
"""Attempts at once."""
HOPELESS = 2**19
"""Attempts after which settings are given up if hardly any has succeeded."""
LEAST_SHARE = 2**-16
"""That must have: a shard would take hours. The documented settings are above 1 in 100."""


BITS = np.array([bin(byte).count("1") for byte in range(256)])
"""That are set in each byte."""


class Ends(NamedTuple):
    """The growing ends of snakes: pivots int32 (2, lanes), and headings (lanes,)."""

    pivot: np.ndarray
    heading: np.ndarray

    def __getitem__(self, lanes: np.ndarray) -> "Ends":  # type: ignore[override]
        return Ends(self.pivot[:, lanes], self.heading[lanes])


class Targets(NamedTuple):
    """Pairs of target snakes.

    Attributes:
        dashes: int32 (3, 2 contour_len, pairs), of both snakes in turn.
        tails: Of their first dashes, int32 (2, snakes, pairs).
        heads: Of their last ones.
    """

    dashes: np.ndarray
    tails: np.ndarray
    heads: np.ndarray


class Lanes:
    """Grows the snakes of one margin.

    Args:
        settings: Of the images.
        margin: One of the settings' margins.
        rng: What is drawn from.
    """

    def __init__(self, settings: Settings, margin: int, rng: np.random.Generator) -> None:
        self.settings, self.rng = settings, rng
        self.made: Geometry = geometry(settings, margin)
        self.clear: Clearance = clearance(settings, margin)
        self.places = first_places(settings, margin)

    def targets(self, count: int) -> Targets:
        """The first `count` pairs that succeed.

        Raises:
            ValueError: If hardly any does.
        """
        found: list[Targets] = []
        num_found = num_tried = 0
        while num_found < count:
            lanes = (
                LANES
                if not num_found
                else int(1.3 * (count - num_found) * num_tried / num_found) + 512
            )
            lanes = min(LANES, lanes)
            found.append(self._attempt(lanes))
            num_found += found[-1].heads.shape[-1]
            num_tried += lanes
            is_rare = num_found < LEAST_SHARE * num_tried
            if is_rare and num_tried >= HOPELESS and num_found < count:
                raise ValueError(
                    f"pathfinder: contour_len {self.settings.contour_len} does not fit into "
                    f"{self.settings.resolution} pixels: {num_found} of {num_tried} pairs did"
                )
        return Targets(
            *(np.concatenate(parts, axis=-1)[..., :count] for parts in zip(*found, strict=True))
        )

    def _attempt(self, lanes: int) -> Targets:
        """Grow `lanes` pairs; those that succeed."""
        length = self.settings.contour_len
        tails, ends = self._seeds(lanes)
        dashes = np.empty((3, 2 * length, tails.shape[-1]), dtype=np.int32)
        heads = np.zeros_like(tails)
        for snake in range(2):
            dashes[:, snake] = self._dash(tails[:, snake], ends[snake].heading)
        for i in range(2, 2 * length):
            snake = i % 2
            # The newest dash of each snake is not in the way, or none could follow it.
            alive, end, head = self.extend(ends[snake], dashes[:, : i - 2])
            ends[1 - snake] = ends[1 - snake][alive]
            ends[snake] = end
            tails, heads = tails[..., alive], heads[..., alive]
            kept = np.empty((3, 2 * length, len(alive)), dtype=np.int32)
            np.take(dashes[:, :i], alive, axis=2, out=kept[:, :i])
            dashes = kept
            heads[:, snake] = head
            dashes[:, i] = self._dash(head, end.heading)
        return Targets(dashes, tails, heads)

    def _dash(self, anchor: np.ndarray, heading: np.ndarray) -> np.ndarray:
        """A dash of each lane, (3, lanes)."""
        stamp = self.made.stamp[heading]
        return np.concatenate([anchor + self.clear.corner[stamp].T, stamp[None]])

    def anchored(self, dashes: np.ndarray) -> np.ndarray:
        """Dashes with their anchors in place of their corners; those that are not there stay so."""
        row, _, stamp = dashes
        moved = dashes.copy()
        moved[:2] -= self.clear.corner[stamp].transpose(2, 0, 1)
        moved[0, row == NOWHERE] = NOWHERE
        return moved

    def _seeds(self, lanes: int) -> tuple[np.ndarray, list[Ends]]:
        """First dashes of both targets: tails int32 (2, snakes, lanes) and their ends."""
        heading, row, rows, column, columns = self.places[
            self.rng.integers(len(self.places), size=lanes)
        ].T
        first = np.stack([row + self.rng.integers(rows), column + self.rng.integers(columns)])
        away = self.settings.seed_distance * directions(self.rng.integers(360, size=lanes)).T
        second = np.rint(first + np.round(away, 9))
        headings = np.stack([heading, self.rng.integers(360, size=lanes)])
        tails = np.stack([first, second], axis=1).astype(np.int32)
        ends, inside = zip(*(self._end(tails[:, i], headings[i]) for i in range(2)), strict=True)
        kept = np.intersect1d(*inside, assume_unique=True)
        return tails[..., kept], [end[kept] for end in ends]

    def _end(self, tail: np.ndarray, heading: np.ndarray) -> tuple[Ends, np.ndarray]:
        """The end of a first dash, and the lanes with its head and its pivot in the image."""
        head = up(tail, self.made.first_head[heading].T)
        pivot = up(head, self.made.first_pivot[heading].T)
        both = np.concatenate([head, pivot])
        outside = (both < 0) | (both >= self.settings.resolution)
        return Ends(pivot, heading), np.flatnonzero(~outside.any(axis=0))

    def extend(self, ends: Ends, dashes: np.ndarray) -> tuple[np.ndarray, Ends, np.ndarray]:
        """Add a dash to each lane, where one can be had.

        Args:
            ends: Where the snakes end.
            dashes: The dashes in the way, (3, dashes, lanes).

        Returns:
            The lanes that got one; their ends; their new heads, (2, lanes).
        """
        pivot = up(ends.pivot, self.made.step[ends.heading].T)
        occupied, forbidden = self._clearance(pivot, dashes)
        weights = self.made.weights[ends.heading]
        weights *= ONE - occupied
        weights[occupied >= OUTSIDE] = 0
        # Beside a dash a mask overshoots 1: such a weight is negative and lowers the later sums.
        sums = np.cumsum(weights, axis=1, dtype=np.int32)
        total = sums[:, -1]
        alive = np.flatnonzero(total >= 1e-4 * ONE**2)
        choice = np.empty(len(total), dtype=np.int64)
        accepted = [alive[:0]]
        for _ in range(self.settings.num_draws):
            height = self.rng.random(len(alive)) * total[alive]
            choice[alive] = (sums[alive] > height[:, None]).argmax(axis=1)
            free = (forbidden[alive] >> choice[alive].astype(np.uint64)) & np.uint64(1) == 0
            accepted.append(alive[free])
            alive = alive[~free]
        alive = np.sort(np.concatenate(accepted))
        pivot, choice = pivot[:, alive], choice[alive]
        return alive, Ends(pivot, 360 + choice), pivot + self.made.choices[choice].T

    def _clearance(self, pivot: np.ndarray, dashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How occupied the choices are, int16 (lanes, K), and which ones collide, (lanes,)."""
        clear = self.clear
        width = self.settings.resolution + 2 * clear.border_reach
        place = (pivot + clear.border_reach).clip(0, width - 1)
        border = clear.border + place[0] * width + place[1]
        occupied, forbidden = clear.occupied.take(border, axis=0), clear.forbidden.take(border)
        for row, column, stamp in dashes.swapaxes(0, 1):
            y, x = pivot[0] - row, pivot[1] - column
            near = np.flatnonzero(
                (y.view(np.uint32) < clear.side) & (x.view(np.uint32) < clear.side)
            )
            at = 1 + (stamp[near] * clear.side + y[near]) * clear.side + x[near]
            occupied[near] = np.maximum(occupied[near], clear.occupied.take(at, axis=0))
            forbidden[near] |= clear.forbidden.take(at)
        return occupied, forbidden

    def distractors(self, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
        """Short snakes among the targets of each lane.

        Returns:
            Their dashes, (3, num_distractors distractor_len, lanes); which are there, bool
            (num_distractors, lanes).
        """
        settings = self.settings
        length, lanes = settings.distractor_len, targets.heads.shape[-1]
        in_way = targets.dashes.copy()
        in_way[:2, -2] = NOWHERE  # the last dash of the first target is never in the way
        in_way[2, -2] = 0
        num_targets = in_way.shape[1]
        more = np.zeros((3, settings.num_distractors * length, lanes), dtype=np.int32)
        more[:2] = NOWHERE
        in_way = np.concatenate([in_way, more], axis=1)
        room = Room(settings, self.made, self.anchored(in_way[:, :num_targets]))
        placed = np.zeros((settings.num_distractors, lanes), dtype=bool)
        number, tries = np.zeros(lanes, dtype=np.int64), np.zeros(lanes, dtype=np.int64)
        active = np.arange(lanes) if settings.num_distractors else np.arange(0)
        while len(active):
            known = num_targets + length * int(number[active].max())
            found, dashes = self._distractor(room, active, in_way[:, :known])
            slots = num_targets + length * number[found] + np.arange(length)[:, None]
            in_way[:, slots, found] = dashes
            placed[number[found], found] = True
            room.occupy(found, self.anchored(dashes))
            tries[active] += 1
            tries[found] = settings.num_tries
            done = active[tries[active] == settings.num_tries]
            number[done] += 1
            tries[done] = 0
            active = active[number[active] < settings.num_distractors]
        return self.anchored(in_way[:, num_targets:]), placed

    def _distractor(
        self, room: "Room", lanes: np.ndarray, in_way: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Try a distractor in each of these lanes: which of them got one, and its dashes."""
        settings = self.settings
        lanes = lanes[room.num_free[lanes] >= 0.01 * settings.resolution**2]
        length = settings.distractor_len
        seeded, tails, headings = self._distractor_seeds(room, lanes)
        lanes = seeded
        dashes = np.empty((3, length, len(lanes)), dtype=np.int32)
        dashes[:, 0] = self._dash(tails, headings)
        ends, _ = self._end(tails, headings)
        others = in_way[..., lanes]
        for i in range(1, length):
            seen = np.concatenate([others, dashes[:, : i - 1]], axis=1)
            alive, ends, head = self.extend(ends, seen)
            lanes, dashes, others = lanes[alive], dashes[..., alive], others[..., alive]
            dashes[:, i] = self._dash(head, ends.heading)
        return lanes, dashes

    def _distractor_seeds(
        self, room: "Room", lanes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First dashes where there is room: the lanes that got one, its tail and heading."""
        got: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for _ in range(self.settings.num_draws):
            headings = self.rng.integers(360, size=len(lanes))
            found, tails = room.draw(lanes, self.made.stamp[headings], self.rng)
            lanes, headings = lanes[found], headings[found]
            _, inside = self._end(tails, headings)
            got.append((lanes[inside], tails[:, inside], headings[inside]))
            lanes = np.delete(lanes, inside)
        lanes, tails, headings = (
            np.concatenate(parts, axis=-1) for parts in zip(*got, strict=True)
        )
        order = lanes.argsort()
        return lanes[order], tails[:, order], headings[order]


def check(settings: Settings) -> None:
    """Raise ValueError if a first dash has no place, which is known when it is drawn."""
    for margin in settings.margins:
        first_places(settings, margin)


class Room:
    """Which cells are occupied, for the first dashes of distractors."""

    def __init__(self, settings: Settings, made: Geometry, dashes: np.ndarray) -> None:
        self.size = settings.resolution
        self.taps = made.taps
        self.cells = [np.argwhere(mask > FREE) - len(mask) // 2 for mask in made.masks]
        self.pad = made.masks.shape[-1] // 2 + 1
        lanes = dashes.shape[-1]
        side = self.size + 2 * self.pad
        self.occupied = np.ones((lanes, side, side), dtype=np.uint8)
        inner = slice(self.pad + settings.padding, -self.pad - settings.padding)
        self.occupied[:, inner, inner] = 0
        self.num_free = np.empty(lanes, dtype=np.int64)
        self.occupy(np.arange(lanes), dashes)

    def occupy(self, lanes: np.ndarray, dashes: np.ndarray) -> None:
        """Put dashes (3, dashes, lanes) in these lanes."""
        flat, side = self.occupied.reshape(-1), self.occupied.shape[1]
        row, column, stamp = dashes.reshape(3, -1)
        lane = np.tile(lanes, dashes.shape[1])
        there = np.flatnonzero(row > NOWHERE)
        at = (lane * side + row + self.pad) * side + column + self.pad
        for kind in np.unique(stamp[there]):
            chosen = there[stamp[there] == kind]
            cells = self.cells[kind] @ (side, 1)
            flat[at[chosen][:, None] + cells] = 1
        inside = self.occupied[lanes, self.pad : -self.pad, self.pad : -self.pad]
        packed = np.packbits(inside.reshape(len(lanes), self.size**2), axis=1)
        self.num_free[lanes] = self.size**2 - BITS[packed].sum(axis=1)

    def draw(
        self, lanes: np.ndarray, stamps: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A tail, uniform over the places that are free for a first dash of each lane's stamp.

        Returns:
            The indices of the lanes that have one; tails, (2, those).
        """
        heights = rng.random(len(lanes))
        tails = np.full((len(lanes),), -1, dtype=np.int64)
        for stamp in np.unique(stamps):
            if not len(self.taps[stamp]):
                continue
            here = np.flatnonzero(stamps == stamp)
            side = self.occupied.shape[1]
            maps = self.occupied[lanes[here]].reshape(len(here), -1)
            # Whole maps are shifted, their margins too: what runs over a row is cut off below.
            margin = self.pad * (side + 1)
            blocked = np.zeros((len(here), side**2), dtype=np.uint8)
            inner = blocked[:, margin:-margin]
            for y, x in self.taps[stamp]:
                at = margin + y * side + x
                inner |= maps[:, at : at + inner.shape[1]]
            blocked = blocked.reshape(-1, side, side)
            free = np.flatnonzero(blocked[:, self.pad : -self.pad, self.pad : -self.pad] == 0)
            cells = self.size**2
            begin = np.searchsorted(free, cells * np.arange(len(here) + 1))
            num_free = np.diff(begin)
            some = np.flatnonzero(num_free)
            chosen = begin[some] + (heights[here[some]] * num_free[some]).astype(np.int64)
            tails[here[some]] = free[chosen] % cells
        found = np.flatnonzero(tails >= 0)
        return found, np.stack(np.divmod(tails[found], self.size)).astype(np.int32)
