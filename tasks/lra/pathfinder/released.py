"""Pathfinder as it was released: folders of PNG images with a text of metadata for each.

`<root>/<set>/metadata/<k>.npy` is text in spite of its name, a line for each image: folder, file,
number, label, continuity, lengths of the contour and of the distractors, of a dash, its thickness,
margin, contrasts. At least one released image is an empty file, which is left out; so is one that
is broken or of another size, with a warning that names it.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tasks.prepared import Item, Unusable, prepare

VERSION = 1
"""Of what is prepared from an image."""
SETS = {
    "easy": "curv_baseline",
    "intermediate": "curv_contour_length_9",
    "hard": "curv_contour_length_14",
}


class Listing(NamedTuple):
    """What the metadata say.

    Attributes:
        files: The images, in the order of the metadata.
        labels: uint8 (files,).
        empty: The images that are empty files, which `files` leaves out.
    """

    files: list[Path]
    labels: Tensor
    empty: list[Path]


def listing(root: Path, difficulty: str) -> Listing:
    """The images of a set, without reading them.

    Raises:
        ValueError: If a folder or an image is missing, or a line is not as it should be.
    """
    folder = root / SETS[difficulty]
    texts = sorted((folder / "metadata").glob("*.npy"), key=_number)
    if not texts:
        raise ValueError(f"pathfinder: no file {folder / 'metadata'}/<number>.npy")
    files, labels, empty = [], [], []
    for text in texts:
        try:
            lines = text.read_text().splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"pathfinder: {text} is not the text that was released") from error
        for number, line in enumerate(lines, start=1):
            file, label = _parse(folder, line, f"{text}:{number}")
            if file.stat().st_size:
                files.append(file)
                labels.append(label)
            else:
                empty.append(file)
    return Listing(files, torch.tensor(labels, dtype=torch.uint8), empty)


def _number(text: Path) -> tuple[int, str]:
    return (int(text.stem), "") if text.stem.isdecimal() else (2**62, text.stem)


def _parse(folder: Path, line: str, where: str) -> tuple[Path, int]:
    """Image and label of a line."""
    parts = line.split()
    if len(parts) < 4:
        raise ValueError(
            f"{where}: a line must begin with folder, file, number and label, got {line!r}"
        )
    if parts[3] not in ("0", "1"):
        raise ValueError(f"{where}: the label (fourth) must be 0 or 1, got {parts[3]!r}")
    file = folder / parts[0] / parts[1]
    if not file.is_file():
        raise ValueError(f"{where}: {file} is missing")
    return file, int(parts[3])


def read(file: Path, resolution: int) -> np.ndarray:
    """The grey levels of an image, uint8 (resolution, resolution).

    Raises:
        Unusable: If it is broken, or not such an image.
    """
    try:
        with Image.open(file) as image:
            size, mode = image.size, image.mode
            levels = np.asarray(image) if mode == "L" else None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise Unusable(f"{file} cannot be read: {error}") from error
    if levels is None or size != (resolution, resolution):
        raise Unusable(
            f"{file} must be {resolution} x {resolution} grey pixels of 8 bits, got "
            f"{size[0]} x {size[1]} of mode {mode}"
        )
    return levels


class Released:
    """Rows of a released set, each image of which was read once before.

    Args:
        files: The images.
        labels: uint8 (files,).
        resolution: Their sides.
        cache_dir: See `tasks.prepared.prepare`, as `num_workers`.
        num_workers: Processes that read.

    Attributes:
        left_out: Why each image that cannot be used is not among the rows, with its name.

    Raises:
        ValueError: If no image can be used.
    """

    in_order_first = False

    def __init__(
        self,
        files: list[Path],
        labels: Tensor,
        resolution: int,
        *,
        cache_dir: str | None = None,
        num_workers: int = 0,
    ) -> None:
        found = prepare(
            "pathfinder",
            [
                Item(str(file), (file,), label)
                for file, label in zip(files, labels.tolist(), strict=True)
            ],
            functools.partial(_row, resolution=resolution),
            version=VERSION,
            settings={"resolution": resolution},
            cache_dir=cache_dir,
            num_workers=num_workers,
        )
        self.arrays, self.left_out = found.arrays, found.left_out

    def __len__(self) -> int:
        return len(self.arrays["labels"])

    def __getitem__(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array[rows.numpy()]) for name, array in self.arrays.items()}


def _row(item: Item, resolution: int) -> Mapping[str, np.ndarray]:
    """What a row has of its image: pixels, label, and where the markers are."""
    levels = read(item.files[0], resolution)[None]
    return {
        "images": levels.reshape(1, -1),
        "labels": np.array([item.about], np.uint8),
        "markers": find_markers(levels).numpy(),
    }


def find_markers(images: np.ndarray) -> Tensor:
    """The middles of the two markers, float64 (images, 2, 2), to a pixel.

    A line can be as bright, but it is thin: squares of 2 x 2 are bright in markers alone.
    """
    rows = np.minimum(images[:, 1:], images[:, :-1])
    squares = np.minimum(rows[:, :, 1:], rows[:, :, :-1])
    found = np.empty((len(images), 2, 2))
    for square, markers in zip(squares, found, strict=True):
        bright = np.argwhere(square >= 0.9 * square.max()) + 1
        far = np.abs(bright - bright[0]).sum(axis=1).argmax()
        ends = bright[[0, far]]
        is_second = np.abs(bright[:, None] - ends).sum(axis=2).argmin(axis=1) == 1
        markers[:] = bright[~is_second].mean(axis=0), bright[is_second | (far == 0)].mean(axis=0)
    return torch.from_numpy(found)
