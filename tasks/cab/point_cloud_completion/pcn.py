"""Scans and shapes in PCN's layout, which PoinTr's code reads too.

Source: Yuan et al., "PCN", 3DV 2018, arXiv:1808.00671; shapes of ShapeNet, for non-commercial
research.

    <folder>/PCN.json                                    objects by category and split, if there
    <folder>/<split>/complete/<category>/<object>.pcd    or .ply, .npy, .npz
    <folder>/<split>/partial/<category>/<object>/00.pcd  and, in training, 01 to 07
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks.cab.point_cloud_completion.clouds import READERS, read_cloud
from tasks.prepared import Item, Prepared, Unusable, prepare

SPLITS = ("train", "val", "test")
LISTING = "PCN.json"
OFFICIAL_TRAIN_ROWS = 28_974
LEAST_POINTS = 16
"""Of a scan: what PoinTr looks at around one point."""
VERSION = 1


def read_split(
    folder: Path, split: str, *, num_points: int, num_scans: int, **preparing: Any
) -> Prepared:
    """The objects of a split that can be used.

    Its fields are `complete` (num_points, 3), `scans` (all points of all scans, 3) and `ends`
    (num_scans,), where each scan ends; the name of an item is `<category>/<object>`.

    Args:
        folder: See the module.
        split: One of `SPLITS`.
        num_points: Of a complete cloud.
        num_scans: Of each object.
        **preparing: `cache_dir` and `num_workers` of `tasks.prepared.prepare`.

    Raises:
        ValueError: If there is no such folder, the listing is malformed, or nothing can be used.
    """
    if not (folder / split / "complete").is_dir():
        raise ValueError(
            f"point_cloud_completion: {folder} must have the folders {', '.join(SPLITS)}, each "
            f"with complete and partial: no {folder / split / 'complete'}"
        )
    items = [
        _item(folder / split, category, name, num_scans)
        for category, name in _listed(folder, split) or _found(folder / split)
    ]
    return prepare(
        f"pcn-{split}",
        items,
        partial(_read, num_points=num_points),
        version=VERSION,
        settings={"num_points": num_points},
        **preparing,
    )


def _listed(folder: Path, split: str) -> list[tuple[str, str]]:
    """Categories and names of the listing; none where there is no listing."""
    path = folder / LISTING
    if not path.exists():
        return []
    try:
        return [
            (str(category["taxonomy_id"]), str(name))
            for category in json.loads(path.read_text("utf-8"))
            for name in category[split]
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: expected a list of categories with taxonomy_id and {', '.join(SPLITS)}, "
            f"got {type(error).__name__}: {error}"
        ) from error


def _found(folder: Path) -> list[tuple[str, str]]:
    paths = [path for path in (folder / "complete").glob("*/*") if path.suffix in READERS]
    return sorted({(path.parent.name, path.stem) for path in paths})


def _item(folder: Path, category: str, name: str, num_scans: int) -> Item:
    scans = folder / "partial" / category / name
    files = [_file(folder / "complete" / category / name)]
    files += [_file(scans / f"{number:02d}") for number in range(num_scans)]
    return Item(f"{category}/{name}", tuple(files))


def _file(stem: Path) -> Path:
    """The file of that name with an ending that can be read; .pcd if there is none."""
    paths = (stem.with_name(stem.name + ending) for ending in READERS)
    return next((path for path in paths if path.exists()), stem.with_name(stem.name + ".pcd"))


def _read(item: Item, num_points: int) -> Mapping[str, np.ndarray]:
    complete, *scans = map(read_cloud, item.files)
    if len(complete) != num_points:
        raise Unusable(
            f"{item.files[0]}: {len(complete)} points, where data.num_points is {num_points}"
        )
    for file, scan in zip(item.files[1:], scans, strict=True):
        if len(scan) < LEAST_POINTS:
            raise Unusable(f"{file}: {len(scan)} points, fewer than {LEAST_POINTS}")
        if not scan.any():
            raise Unusable(f"{file}: every point is at the origin")
    ends = np.cumsum([len(scan) for scan in scans], dtype=np.int64)
    return {"complete": complete, "scans": np.concatenate(scans), "ends": ends}
