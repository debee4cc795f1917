"""Grey pictures as sequences of pixels: generated, CIFAR-10 from the hub, or from files.

Source: Tay et al., "Long Range Arena", ICLR 2021, arXiv:2011.04006; Krizhevsky, "Learning Multiple
Layers of Features from Tiny Images", 2009 (CIFAR-10; no licence is stated).
Departs from the former: batches are drawn anew each epoch (there a batch keeps its members), no
picture is left out at the end of an evaluation, and black pixels are pixels
(`protocol="lra2020"` masks them, as was done there).
In: tokens (B, N), the grey value 0 to 255 of each pixel, row by row. Out: one of ten classes.
"""

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.lra.batch import Batch
from tasks.lra.image_classification.generate import Settings, generate
from tasks.lra.sources import (
    LraData,
    Part,
    check_label,
    from_hub,
    missing,
    parquet,
    spread,
)
from tasks.rules.labels import lookup, majority

HUB = "uoft-cs/cifar10"
OFFICIAL_ROWS = {"train": 45_000, "test": 10_000}
SIDE = 32
FOLDER = (
    "a folder with {train,test}.parquet, or with data_batch_{1,...,5}.bin and test_batch.bin of "
    "CIFAR-10's binary version"
)
BINARY = {
    "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
    "test": ["test_batch.bin"],
}
RECORD = 1 + 3 * SIDE * SIDE
"""Bytes of a record of the binary version: the label, then red, green and blue."""
GREY_LEVELS_A_KEY = 8
"""Mean grey values that the look-up takes as one."""

Examples = tuple[np.ndarray, np.ndarray]
"""Grey pictures, uint8 (rows, pixels), and labels, int64 (rows,)."""


class Pictures:
    """Whole batches of pictures.

    Args:
        pixels: uint8 (rows, N).
        labels: int64 (rows,).
        masks_black: Whether a black pixel is padding.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, *, masks_black: bool) -> None:
        self.pixels, self.labels, self.masks_black = pixels, labels, masks_black

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Batch:
        tokens = self.pixels[rows].long()
        is_padding = tokens == 0 if self.masks_black else torch.zeros_like(tokens).bool()
        return Batch(tokens, is_padding, self.labels[rows])


class ImageClassificationData(LraData):
    """Grey pictures and what they show.

    Args:
        source: "generated", see `generate`; "hub" for CIFAR-10; or a folder with
            `{train,test}.parquet` (columns label, and img or image with the bytes of a file), or
            with the files of CIFAR-10's binary version. The last tenth of the training rows, by
            position, is for validation.
        max_len: Pixels, a square; 1,024 of CIFAR-10.
        num_bars: See `generate.Settings`, as `bar_len` and `num_directions`; for generated rows
            alone.
        **given: See `LraData`; of `protocol`, above.
    """

    train: Pictures
    validation: Pictures
    test: Pictures
    task = "image_classification"
    sources = f"generated, hub or {FOLDER}"
    has_hub = True

    def __init__(
        self,
        *,
        source: str,
        max_len: int = SIDE * SIDE,
        num_bars: int = 3,
        bar_len: int = 4,
        num_directions: int = 2,
        **given: Any,
    ) -> None:
        super().__init__(source=source, max_len=max_len, **given)
        self.side = math.isqrt(max_len)
        if self.side**2 != max_len:
            raise ValueError(
                f"{self.task}: max_len must be the number of pixels of a square, got {max_len}"
            )
        self.num_classes = 10
        if source == "generated":
            self.settings = Settings(self.side, num_bars, bar_len, num_directions)
            self.num_classes = num_directions
        elif max_len != SIDE * SIDE:
            raise ValueError(
                f"{self.task}: the pictures of {source} have {SIDE * SIDE} pixels, got max_len "
                f"{max_len}"
            )

    @property
    def dataset(self) -> str:
        """CIFAR-10 in grey, marked where it is only a part; or what is generated."""
        if self.source == "generated":
            return "shapes-synthetic"
        rows = {"train": len(self.train), "test": len(self.test)}
        return "CIFAR-10-grey" if rows == OFFICIAL_ROWS else "CIFAR-10-grey-sample"

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes."""
        return {
            "vocab_size": 256,
            "num_classes": self.num_classes,
            "max_len": self.max_len,
            "num_documents": 1,
            "grid": (self.side, self.side),
        }

    def _read(self) -> None:
        read = read_hub if self.source == "hub" else read_folder
        train, test = (read(self.source, split) for split in ("train", "test"))
        count = len(train[1]) * 9 // 10
        self.train = self._pictures((train[0][:count], train[1][:count]), self.num_train)
        self.validation = self._pictures((train[0][count:], train[1][count:]), self.num_eval)
        self.test = self._pictures(test, self.num_eval)

    def trivial_scores(self) -> dict[str, dict[str, float]]:
        """The most frequent label, of all and of pictures as bright."""
        train, test = self.train, self.test
        keys = [
            rows.pixels.double().mean(dim=1).div(GREY_LEVELS_A_KEY).long() for rows in (train, test)
        ]
        scores = {
            "majority": majority(train.labels, test.labels),
            "mean grey value": lookup(keys[0], train.labels, keys[1], test.labels),
        }
        return {rule: {"accuracy": score} for rule, score in scores.items()}

    def _generated(self, part: Part, seed: int, num_rows: int) -> Pictures:
        return self._pictures(generate(seed, num_rows, self.settings))

    def _pictures(self, examples: Examples, count: int | None = None) -> Pictures:
        chosen = spread(len(examples[1]), count)
        pixels, labels = (torch.from_numpy(np.ascontiguousarray(array)) for array in examples)
        return Pictures(
            pixels[chosen], labels[chosen].long(), masks_black=self.protocol == "lra2020"
        )


def grey(colours: np.ndarray) -> np.ndarray:
    """Grey values, uint8 (...), of colours, uint8 (..., 3).

    0.2989 R + 0.5870 G + 0.1140 B, cut to a whole number after scaling by 255.5 / 255, as
    `tf.image.rgb_to_grayscale` does in float32; in whole numbers, so that all machines agree.
    """
    weighted = colours.astype(np.int64) @ np.array([2989, 5870, 1140])
    return (weighted * 511 // (510 * 10_000)).astype(np.uint8)


def read_hub(name: str, split: str) -> Examples:
    """A split of CIFAR-10 on the hub."""
    from datasets import Image

    rows = from_hub(HUB, split, FOLDER).cast_column("img", Image(decode=False))
    return _decode(rows["img"], rows["label"], f"{HUB}, {split}")


def read_folder(folder: str, split: str) -> Examples:
    """A split of a folder; see `ImageClassificationData`.

    Raises:
        ValueError: Naming file and row, if something is missing or not what it should be.
    """
    path = Path(folder) / f"{split}.parquet"
    if path.is_file():
        images, labels = parquet(path, "img|image", "label")
        return _decode(images, labels, str(path))
    paths = [Path(folder) / name for name in BINARY[split]]
    if not paths[0].is_file():
        raise missing(Path(folder), [path.name, *BINARY[split]])
    parts = [_from_binary(path) for path in paths if path.is_file()]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _decode(images: Any, labels: Any, source: str) -> Examples:
    colours, checked = [], []
    with warnings.catch_warnings(action="error"):
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            where = f"{source}, row {row} (counted from 0)"
            colours.append(_colours(image, where))
            checked.append(check_label(label, 10, where))
    return grey(np.stack(colours)).reshape(len(checked), -1), np.array(checked)


def _colours(image: Any, where: str) -> np.ndarray:
    """A picture's red, green and blue, uint8 (SIDE, SIDE, 3)."""
    from PIL import Image, UnidentifiedImageError

    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        raise ValueError(f"{where}: expected the bytes of a picture, got {content!r}")
    try:
        colours = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except UnidentifiedImageError:  # its message names a buffer in memory
        raise ValueError(
            f"{where}: expected the bytes of a picture, got {content[:20]!r}"
        ) from None
    except (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: the picture cannot be read: {error}") from error
    if colours.shape[:2] != (SIDE, SIDE):
        height, width = colours.shape[:2]
        raise ValueError(f"{where}: expected {SIDE} x {SIDE} pixels, got {height} x {width}")
    return colours


def _from_binary(path: Path) -> Examples:
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if not len(content) or len(content) % RECORD:
        raise ValueError(
            f"{path} must hold records of {RECORD} bytes, but record {len(content) // RECORD} "
            f"(counted from 0) has {len(content) % RECORD}"
        )
    records = content.reshape(-1, RECORD)
    labels = records[:, 0].astype(np.int64)
    for row in np.flatnonzero(labels > 9)[:1]:
        check_label(int(labels[row]), 10, f"{path}, record {row} (counted from 0)")
    return grey(records[:, 1:].reshape(len(records), 3, -1).transpose(0, 2, 1)), labels
