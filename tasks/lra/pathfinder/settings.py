"""What a Pathfinder image is made of."""

import math
from dataclasses import dataclass
from typing import Any, Self

TINY = 16
"""A resolution of ours, which LRA does not have: one that is learnt in seconds."""
CONTOUR_LENGTHS = {"easy": 6, "intermediate": 9, "hard": 14}
"""Dashes of a target; "hard" is what LRA calls Pathfinder and, of 128 pixels, Path-X."""
_TINY_LENGTHS = {"easy": 2, "intermediate": 3, "hard": 4}

_DOCUMENTED: dict[int, dict[str, Any]] = {
    TINY: {
        "dash_len": 2,
        "thickness": 0.5,
        "margins": (1,),
        "marker_radius": 1.0,
        "continuity": 1.0,
        "seed_distance": 3,
    },
    32: {
        "dash_len": 2,
        "thickness": 0.5,
        "margins": (1,),
        "marker_radius": 1.5,
        "continuity": 1.0,
        "seed_distance": 7,
        "target_contrast": 0.75,
    },
    64: {"thickness": 1.0, "margins": (1,), "marker_radius": 2.5, "seed_distance": 12},
    128: {"thickness": 1.5, "margins": (2, 3), "marker_radius": 3.0, "seed_distance": 20},
    256: {
        "thickness": 2.0,
        "margins": (3,),
        "marker_radius": 5.0,
        "seed_distance": 27,
        "padding": 22,
    },
}
_DISTRACTOR_DASHES = {TINY: 1, 32: 20, 64: 22, 128: 35, 256: 30}


@dataclass(frozen=True)
class Settings:
    """The parameters of an image; `documented` gives those of LRA's sets.

    Args:
        resolution: Pixels of a side.
        contour_len: Dashes of each of the two target snakes.
        num_distractors: Short snakes that are tried; one that finds no room is missing.
        distractor_len: Dashes of a distractor.
        dash_len: Length of a dash, in pixels.
        thickness: Its width; a multiple of a half.
        margins: Free pixels around a dash, one of these drawn for each image.
        marker_radius: Of the two discs.
        continuity: How straight a snake goes: the greatest turn is 90 degrees through it.
        seed_distance: Pixels between the first dashes of the two targets.
        padding: Pixels at each border that no dash may enter.
        target_contrast: Intensity of a target's dashes, in that of the distractors'.
        num_draws: Directions that are drawn for a dash before its snake is given up.
        num_tries: Snakes that are tried for a distractor before it is left out.
        original_poses: Whether first dashes stand as the original places them, which through
            an index that is one off admits few directions only (at 32 pixels 61 of 360).

    Raises:
        ValueError: If two such targets do not fit into the image, with the inequality.
    """

    resolution: int
    contour_len: int
    num_distractors: int
    distractor_len: int
    dash_len: int = 5
    thickness: float = 1.0
    margins: tuple[int, ...] = (1,)
    marker_radius: float = 2.5
    continuity: float = 1.8
    seed_distance: int = 12
    padding: int = 1
    target_contrast: float = 1.0
    num_draws: int = 3
    num_tries: int = 5
    original_poses: bool = True

    @classmethod
    def documented(
        cls,
        resolution: int = 32,
        difficulty: str = "hard",
        *,
        contour_len: int | None = None,
        num_distractors: int | None = None,
        distractor_len: int | None = None,
        **changes: Any,
    ) -> Self:
        """The parameters of LRA's sets, with changes.

        Args:
            resolution: 32, 64, 128 or 256; or 16, whose targets are shorter, in equal contrast.
            difficulty: "easy", "intermediate" or "hard": targets of 6, 9 or 14 dashes.
            contour_len: In place of what the difficulty says.
            num_distractors: None for as many as the documented number of dashes gives.
            distractor_len: None for a third of the targets' length.
            **changes: Of the other parameters.
        """
        if resolution not in _DOCUMENTED:
            known = ", ".join(str(known) for known in _DOCUMENTED)
            raise ValueError(f"pathfinder: resolution must be one of {known}, got {resolution}")
        if difficulty not in CONTOUR_LENGTHS:
            known = ", ".join(CONTOUR_LENGTHS)
            raise ValueError(f"pathfinder: difficulty must be one of {known}, got {difficulty!r}")
        lengths = _TINY_LENGTHS if resolution == TINY else CONTOUR_LENGTHS
        contour_len = lengths[difficulty] if contour_len is None else contour_len
        distractor_len = max(1, contour_len // 3) if distractor_len is None else distractor_len
        if num_distractors is None:
            num_distractors = _DISTRACTOR_DASHES[resolution] // max(1, distractor_len)
        return cls(
            resolution=resolution,
            contour_len=contour_len,
            num_distractors=num_distractors,
            distractor_len=distractor_len,
            **{**_DOCUMENTED[resolution], **changes},
        )

    def __post_init__(self) -> None:
        if isinstance(self.margins, list):  # from a YAML
            object.__setattr__(self, "margins", tuple(self.margins))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"pathfinder: {name} must be a whole number of at least {least}, got {value!r}"
                )
        for name in ("marker_radius", "continuity", "target_contrast", "thickness"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"pathfinder: {name} must be a positive number, got {value!r}")
        is_list = isinstance(self.margins, tuple) and len(self.margins) > 0
        if not is_list or not all(isinstance(m, int) and m >= 1 for m in self.margins):
            raise ValueError(
                "pathfinder: margins must be a list of whole numbers of at least 1, got "
                f"{self.margins!r}"
            )
        if not isinstance(self.original_poses, bool):
            raise ValueError(
                f"pathfinder: original_poses must be true or false, got {self.original_poses!r}"
            )
        if 2 * self.thickness != round(2 * self.thickness):
            raise ValueError(
                f"pathfinder: thickness must be a positive multiple of 0.5, got {self.thickness}"
            )
        self._check_room()

    def _check_room(self) -> None:
        """Refuse what cannot be drawn: necessary conditions, of one dash and of all of them."""
        if 2 * self.marker_radius > self.resolution:
            raise ValueError(
                "pathfinder: the markers do not fit: 2 marker_radius <= resolution, got "
                f"2 x {self.marker_radius} > {self.resolution}"
            )
        reach = self.dash_len + max(self.margins)
        if 2 * math.pi * reach > 64:
            raise ValueError(
                "pathfinder: a dash has at most 64 directions: 2 pi (dash_len + margin) <= 64, got "
                f"2 pi ({self.dash_len} + {max(self.margins)}) = {2 * math.pi * reach:.1f}"
            )
        blocked = 2 * max(2 * self.seed_distance, self.padding)
        if blocked + reach > self.resolution:
            raise ValueError(
                "pathfinder: the first dash does not fit: 2 max(2 seed_distance, padding) + "
                f"dash_len + margin <= resolution, got {blocked} + {reach} > {self.resolution}"
            )
        # Every second dash of a snake keeps its margin to all others, so these are disjoint.
        area = self.dash_len * (2 * max(self.margins))
        room = (self.resolution - 2 * self.padding) ** 2
        if self.contour_len * area > room:
            raise ValueError(
                "pathfinder: the contours do not fit: contour_len x dash_len x 2 margin <= "
                f"(resolution - 2 padding)^2, got {self.contour_len} x {self.dash_len} x "
                f"{2 * max(self.margins)} = {self.contour_len * area} > {room}"
            )


_LEAST = {
    "resolution": 8,
    "contour_len": 2,
    "num_distractors": 0,
    "distractor_len": 1,
    "dash_len": 1,
    "seed_distance": 1,
    "padding": 1,
    "num_draws": 1,
    "num_tries": 1,
}
