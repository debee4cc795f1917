"""Pathfinder: images that are generated, or read from the folders of the release.

Source: Linsley et al., NeurIPS 2018, arXiv:1805.08315; Tay et al., "Long Range Arena", ICLR 2021,
arXiv:2011.04006.
Departs from the latter: no pixel is hidden as padding, unless by its protocol.
In: grey levels of the pixels, row by row, (B, N). Out: whether the markers are on one snake.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.lra.batch import Batch
from tasks.lra.pathfinder.generate import VERSION, generate
from tasks.lra.pathfinder.lanes import check
from tasks.lra.pathfinder.released import Released, listing
from tasks.lra.pathfinder.settings import TINY, Settings
from tasks.lra.sources import LraData, Part, spread
from tasks.rules.labels import lookup, majority
from tasks.rules.logistic import logistic
from tasks.shards import Shards

RULE_ROWS = 8192
"""Training rows that the rules are fitted to: the first, which a run has made anyway."""
AT_ONCE = 1024
RELEASED_ROWS = 199_000
"""A set of the release has 200,000 images, but for some that are broken."""
DISTANCE_BINS = 32
CHANGES = [
    field.name
    for field in dataclasses.fields(Settings)
    if field.name not in ("resolution", "num_distractors")  # settings of the data themselves
]


class Pixels:
    """Whole batches of images as sequences.

    Args:
        rows: Give images (B, N), labels (B,) and markers (B, 2, 2).
        black_is_padding: Whether pixels of level 0 are padding.
    """

    def __init__(self, rows: Shards | Released, *, black_is_padding: bool) -> None:
        self.rows, self.black_is_padding = rows, black_is_padding
        self.in_order_first = rows.in_order_first

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> Batch:
        found = self.rows[rows]
        tokens = found["images"].long()
        is_padding = tokens == 0 if self.black_is_padding else torch.zeros_like(tokens).bool()
        return Batch(tokens, is_padding, found["labels"].long())

    def what_rules_see(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Markers float64 (rows, 2, 2) and labels int64 (rows,) of the first rows."""
        parts = [self.rows[rows] for rows in torch.arange(num_rows).split(AT_ONCE)]
        markers = torch.cat([part["markers"] for part in parts]).double()
        return markers, torch.cat([part["labels"] for part in parts]).long()


class PathfinderData(LraData):
    """Images of two snakes with two markers.

    Args:
        source: "generated", or the folder of a resolution in the release, which holds
            `curv_contour_length_14/` and so on, cut by position into 80, 10 and 10 %.
        resolution: Pixels of a side: 32, 64, 128 (Path-X), 256; or 16, ours, for a small machine.
        difficulty: "easy", "intermediate" or "hard", LRA's.
        num_distractors: None for the documented number.
        changes: Of other parameters, see `Settings`.
        max_len: The number of pixels; None for what the resolution says.
        **given: See `LraData`.

    Raises:
        ValueError: If a setting is not one of these, or there is no such image.
    """

    train: Pixels
    validation: Pixels
    test: Pixels
    task = "pathfinder"
    sources = "generated, or a folder of the release"

    def __init__(
        self,
        *,
        source: str = "generated",
        resolution: int = 32,
        difficulty: str = "hard",
        num_distractors: int | None = None,
        changes: Mapping[str, Any] | None = None,
        max_len: int | None = None,
        **given: Any,
    ) -> None:
        super().__init__(source=source, max_len=max_len or resolution**2, **given)
        for name in changes or {}:
            if name not in CHANGES:
                known = ", ".join(CHANGES)
                raise ValueError(f"pathfinder: changes may have {known}, not {name!r}")
        self.settings = Settings.documented(
            resolution, difficulty, num_distractors=num_distractors, **(changes or {})
        )
        self.benchmark = Settings.documented(resolution, difficulty)
        if self.max_len != resolution**2:
            raise ValueError(
                f"pathfinder: max_len must be resolution^2 = {resolution**2}, got {max_len}"
            )
        if source == "generated":
            check(self.settings)
        elif self.settings != self.benchmark:
            raise ValueError(
                "pathfinder: num_distractors and changes are of generated images; a release has "
                "its own"
            )
        self.difficulty = difficulty
        self._empty: list[Path] = []
        self._unusable: list[str] = []
        self._is_sample = False

    @property
    def dataset(self) -> str:
        """Its name: the benchmark's own where its parameters are, which is generated too.

        A folder with fewer images than the release has is a sample; known after `setup`.
        """
        resolution = self.settings.resolution
        name = f"Pathfinder-{resolution}-{self.difficulty}"
        if resolution == 128 and self.difficulty == "hard":
            name = "Path-X"
        if self.settings != self.benchmark:
            given, usual = dataclasses.asdict(self.settings), dataclasses.asdict(self.benchmark)
            name += "".join(f"-{key}={given[key]}" for key in usual if given[key] != usual[key])
        name += "-sample" if self._is_sample else ""
        return f"{name}-synthetic" if resolution == TINY else name

    @property
    def labels(self) -> dict[str, str]:
        """Which images of a release are left out: empty files, and others that are not usable."""
        labels = {"empty_images": " ".join(map(str, self._empty))} if self._empty else {}
        return labels | ({"unusable_images": "; ".join(self._unusable)} if self._unusable else {})

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes."""
        resolution = self.settings.resolution
        return {
            "vocab_size": 256,
            "num_classes": 2,
            "max_len": resolution**2,
            "num_documents": 1,
            "grid": (resolution, resolution),
        }

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """What the two markers' places tell without the lines between them."""
        seen, known = self.train.what_rules_see(min(RULE_ROWS, len(self.train)))
        asked, labels = self.test.what_rules_see(len(self.test))
        size = self.settings.resolution
        bins = [(DISTANCE_BINS * distance(of) / size).long() for of in (seen, asked)]
        features = [geometry(of, size) for of in (seen, asked)]
        scores = {
            "majority": majority(known, labels),
            "marker distance": lookup(bins[0], known, bins[1], labels),
            "marker geometry": logistic(features[0], known, features[1], labels),
        }
        return {rule: {"accuracy": score} for rule, score in scores.items()}

    def _generated(self, part: Part, seed: int, num_rows: int) -> Pixels:
        size = self.settings.resolution
        rows = Shards(
            "pathfinder",
            version=VERSION,
            settings=dataclasses.asdict(self.settings),
            seed=seed,
            num_rows=num_rows,
            fields={
                "images": ((size**2,), "uint8"),
                "labels": ((), "uint8"),
                "markers": ((2, 2), "uint16"),
            },
            make=self._make,
            cache_dir=self.cache_dir,
        )
        return self._pixels(rows)

    def _make(self, seed: Sequence[int], count: int) -> dict[str, np.ndarray]:
        made = generate(seed, count, self.settings)
        images = made.images.reshape(count, -1)
        return {"images": images, "labels": made.labels, "markers": made.markers}

    def _read(self) -> None:
        """The release's rows: split by their position, 80 %, 10 %, 10 %, before any is left out."""
        files, labels, self._empty = listing(Path(self.source), self.difficulty)
        self._is_sample = len(files) < RELEASED_ROWS
        borders = [0, len(files) * 8 // 10, len(files) * 9 // 10, len(files)]
        counts = (self.num_train, self.num_eval, self.num_eval)
        parts = [
            begin + spread(end - begin, count).numpy()
            for (begin, end), count in zip(pairwise(borders), counts, strict=True)
        ]
        released = [
            Released(
                [files[i] for i in rows],
                labels[rows],
                self.settings.resolution,
                cache_dir=self.cache_dir,
                num_workers=self.num_workers,
            )
            for rows in parts
        ]
        self._unusable = [why for part in released for why in part.left_out]
        self.train, self.validation, self.test = map(self._pixels, released)

    def _pixels(self, rows: Shards | Released) -> Pixels:
        return Pixels(rows, black_is_padding=self.protocol == "lra2020")


def distance(markers: Tensor) -> Tensor:
    """Between the two markers (rows, 2, 2), in pixels, (rows,)."""
    return (markers[:, 0] - markers[:, 1]).norm(dim=-1)


def geometry(markers: Tensor, size: int) -> Tensor:
    """What one can measure of two markers that look alike, (rows, features)."""
    apart = distance(markers)
    across = (markers[:, 0] - markers[:, 1]).abs().sort(dim=1).values  # (rows, 2)
    outward = (markers - (size - 1) / 2).norm(dim=-1).sort(dim=1).values
    middle = (markers.mean(dim=1) - (size - 1) / 2).norm(dim=-1)
    measured = torch.cat([apart[:, None], across, outward, middle[:, None]], dim=1) / size
    return torch.cat([measured, measured**2], dim=1)
