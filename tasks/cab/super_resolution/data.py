"""Large images, small ones, and these enlarged: from folders, or generated.

Source: Zhang et al., CAB, ICML 2023, arXiv:2210.07661; files are read by
`tasks.cab.super_resolution.images`, and `tasks.cab.super_resolution.generate` draws.
Departs from CAB: rows for validation are set aside, which CAB has none of: the last ones of the
evaluation folder, none of which is tested.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks.cab.super_resolution.generate import generate
from tasks.cab.super_resolution.images import read_folder
from tasks.cab.super_resolution.scores import NAMES, WINDOW, scores
from tasks.data import TEST_SEED, VALIDATION_SEED, TaskData, check_counts
from tasks.metrics.mean import Mean

OFFICIAL_ROWS = (70_000, 30_000)
"""Of FFHQ and of CelebA-HQ."""
AT_ONCE = 32
"""Images that the rules are scored on together."""


class Batch(NamedTuple):
    """Images, uint8.

    Attributes:
        original: (B, 3, S, S).
        enlarged: Of the small image, bicubic, (B, 3, S, S).
        small: (B, 3, s, s).
        rows: Which rows of their split they are, int64 (B,).
    """

    original: Tensor
    enlarged: Tensor
    small: Tensor
    rows: Tensor


class Pictures:
    """The rows `first` to `end` of arrays of images, uint8 (images, side, side, 3) each."""

    def __init__(self, arrays: Mapping[str, np.ndarray], first: int, end: int) -> None:
        self.arrays, self.first, self.end = arrays, first, end

    def __len__(self) -> int:
        return self.end - self.first

    def __getitem__(self, rows: Tensor) -> Batch:
        chosen = self.first + rows.numpy()
        images = {
            name: torch.from_numpy(np.asarray(array[chosen])).permute(0, 3, 1, 2).contiguous()
            for name, array in self.arrays.items()
        }
        return Batch(**images, rows=rows)


class SuperResolutionData(TaskData):
    """Images to make larger.

    Args:
        source: "generated", or the folder of the training images; see `images.read_folder`.
        eval_source: The folder of the images for validation and test.
        small_size: s.
        image_size: S.
        num_validation: Of the evaluation folder, or generated: the last so many.
        max_test_items: Only so many test rows, the first; None for all.
        num_train: Generated training rows.
        num_test: Generated test rows.
        num_kinds: See `generate.generate`.
        cache_dir: Where prepared images are kept; see `tasks.prepared.prepare`.
        **loading: See `TaskData`.

    Raises:
        ValueError: If a size is wrong, or a folder is missing.
    """

    train: Pictures
    validation: Pictures
    test: Pictures

    def __init__(
        self,
        *,
        source: str,
        eval_source: str | None = None,
        small_size: int,
        image_size: int,
        num_validation: int,
        max_test_items: int | None = None,
        num_train: int = 2048,
        num_test: int = 64,
        num_kinds: int = 2,
        cache_dir: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_counts(
            small_size=small_size,
            num_validation=num_validation,
            max_test_items=max_test_items,
            num_train=num_train,
            num_test=num_test,
        )
        if image_size < max(small_size + 1, WINDOW):
            raise ValueError(
                f"image_size must be greater than small_size and at least {WINDOW}, the window of "
                f"SSIM, got {image_size} and {small_size}"
            )
        if source == "hub":
            raise ValueError(
                "super_resolution has no data set on the hub; give folders of FFHQ and CelebA-HQ"
            )
        if source != "generated" and eval_source is None:
            raise ValueError("super_resolution: eval_source must be a folder beside source")
        if source != "generated" and _same(source, eval_source):
            raise ValueError(
                f"super_resolution: source and eval_source are the same folder, {source}: the test "
                "would be of training images"
            )
        self.source, self.eval_source = source, eval_source
        self.small_size, self.image_size = small_size, image_size
        self.num_validation, self.max_test_items = num_validation, max_test_items
        self.num_train, self.num_test = num_train, num_test
        self.num_kinds = num_kinds
        self.cache_dir = cache_dir
        self.counts = (0, 0)

    @property
    def dataset(self) -> str:
        """CAB's two where all their images are there, else the folders; or what is generated."""
        if self.source == "generated":
            return "cells-synthetic"
        if self.counts == OFFICIAL_ROWS:
            return "FFHQ to CelebA-HQ"
        assert self.eval_source is not None
        folders = [Path(f).expanduser().resolve() for f in (self.source, self.eval_source)]
        if folders[0].name == folders[1].name:
            return " to ".join(f"{folder.parent.name}/{folder.name}" for folder in folders)
        return f"{folders[0].name} to {folders[1].name}"

    @property
    def facts(self) -> dict[str, Any]:
        """The size of the large images."""
        return {"image_size": self.image_size}

    def setup(self, stage: str | None = None) -> None:
        """Prepare, or generate, once."""
        if hasattr(self, "train"):
            return
        if self.source == "generated":
            parts = [
                (self.num_train, self.seed),
                (self.num_validation, VALIDATION_SEED),
                (self.num_test, TEST_SEED),
            ]
            self.train, self.validation, test = (self._generated(*part) for part in parts)
            num_test = len(test)
        else:
            assert self.eval_source is not None
            train, test = self._read(self.source), self._read(self.eval_source)
            self.counts = len(train), len(test)
            num_test = len(test) - self.num_validation
            if num_test < 1:
                raise ValueError(
                    f"super_resolution: {self.eval_source} has {len(test)} images that can be "
                    f"used, of which num_validation {self.num_validation} leaves none to test"
                )
            self.train = train
            self.validation = Pictures(test.arrays, num_test, len(test))
        self.test = Pictures(test.arrays, 0, min(num_test, self.max_test_items or num_test))

    def _generated(self, num_rows: int, seed: int) -> Pictures:
        images = generate(
            num_rows,
            seed,
            small=self.small_size,
            large=self.image_size,
            num_kinds=self.num_kinds,
        )
        return Pictures(images._asdict(), 0, num_rows)

    def _read(self, folder: str) -> Pictures:
        prepared = read_folder(
            Path(folder).expanduser(),
            small=self.small_size,
            large=self.image_size,
            cache_dir=self.cache_dir,
            num_workers=self.num_workers,
        )
        return Pictures(prepared.arrays, 0, len(prepared))

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """What enlarging reaches: bicubic, and each pixel repeated where that makes whole ones."""
        means = {rule: {name: Mean() for name in NAMES} for rule in ("bicubic", "nearest")}
        for rows in torch.arange(len(self.test)).split(AT_ONCE):
            batch = self.test[rows]
            for rule, images in (("bicubic", batch.enlarged), ("nearest", nearest(batch))):
                for name, values in scores(images, batch.original).items():
                    means[rule][name].update(values.sum(), len(values))
        return {
            rule: {name: mean.compute().item() for name, mean in named.items()}
            for rule, named in means.items()
        }


def nearest(batch: Batch) -> Tensor:
    """The small images as large as the originals, each pixel what is under it, uint8."""
    places = torch.arange(batch.original.shape[-1]) * batch.small.shape[-1]
    places = places // batch.original.shape[-1]
    return batch.small[:, :, places][..., places]


def _same(one: str, other: str | None) -> bool:
    return (
        other is not None and Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
    )
