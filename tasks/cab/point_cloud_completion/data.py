"""Scans with their complete clouds: PCN, or generated.

Source: see `tasks.cab.point_cloud_completion.pcn` and `point_cloud_completion.generate`.
Departs from CAB: what is drawn for a training row (its scan, the points of it, its mirroring) is
drawn by seed, epoch and row, so that a resumed run sees the same; checkpoints are selected on
`val`, in whose place the reference code has the test split.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks.cab.point_cloud_completion import pcn
from tasks.cab.point_cloud_completion.generate import generate
from tasks.data import TEST_SEED, VALIDATION_SEED, TaskData, check_counts
from tasks.metrics.chamfer import cloud_scores
from tasks.metrics.groups import GroupMeans
from tasks.prepared import Prepared

NUM_SCANS = 8
"""Of a training object; of others, the first is taken."""
FILLS = ("zeros", "repeat")
"""How a scan of too few points gets as many as it must have; see `CompletionData`."""
AT_ONCE = 64
"""Rows that the rules are scored on together."""
EVAL_SEED = 0
"""Of the points that are taken of an evaluation scan."""


class Batch(NamedTuple):
    """Scans, and what they are of.

    Attributes:
        scan: (B, N, 3); points at the origin may pad it.
        complete: (B, G, 3).
        category: Numbers, int64 (B,).
    """

    scan: Tensor
    complete: Tensor
    category: Tensor


class MadeClouds:
    """Generated rows, all of one category."""

    in_order_first = True

    def __init__(self, num_clouds: int, seed: int) -> None:
        self.scan, self.complete = generate(num_clouds, seed)

    def __len__(self) -> int:
        return len(self.scan)

    def __getitem__(self, rows: Tensor) -> Batch:
        return Batch(self.scan[rows], self.complete[rows], torch.zeros_like(rows))


class ScannedClouds:
    """Rows of a split of PCN.

    Args:
        objects: See `pcn.read_split`.
        categories: In the order of their numbers.
        num_scan_points: N.
        fill: One of `FILLS`.
        seed: Of what is drawn for training; None for evaluation.
    """

    def __init__(
        self,
        objects: Prepared,
        categories: Sequence[str],
        num_scan_points: int,
        fill: str,
        seed: int | None,
    ) -> None:
        self.objects = objects
        self.num_scan_points, self.fill, self.seed = num_scan_points, fill, seed
        numbers = {name: number for number, name in enumerate(categories)}
        of = [numbers[name.split("/")[0]] for name in objects.names]
        self.category = torch.tensor(of, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.objects)

    def parts(self, epoch: int) -> Sequence[Tensor]:
        """The row numbers of an epoch; in training they tell the epoch too."""
        first = 0 if self.seed is None else epoch * len(self)
        return [torch.arange(first, first + len(self))]

    def __getitem__(self, rows: Tensor) -> Batch:
        scans, completes = zip(*map(self._row, rows.tolist()), strict=True)
        category = self.category[rows % len(self)]
        return Batch(
            torch.from_numpy(np.stack(scans)), torch.from_numpy(np.stack(completes)), category
        )

    def _row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, item = divmod(row, len(self))
        seed = [EVAL_SEED, 0] if self.seed is None else [1 + self.seed, epoch]
        drawn = np.random.default_rng([*seed, item])
        complete = self.objects.get("complete", item)
        ends = self.objects.get("ends", item)
        number = 0 if self.seed is None else int(drawn.integers(len(ends)))
        scan = self.objects.get("scans", item)[ends[number - 1] if number else 0 : ends[number]]
        scan = resample(scan, self.num_scan_points, self.fill, drawn)
        if self.seed is not None:
            signs = mirror(drawn)
            return scan * signs, complete * signs
        return scan, np.array(complete)


def resample(
    scan: np.ndarray, num_points: int, fill: str, drawn: np.random.Generator
) -> np.ndarray:
    """So many of the points in random order, or all of them and what fills the cloud up."""
    if len(scan) >= num_points:
        return scan[drawn.permutation(len(scan))[:num_points]]
    if fill == "zeros":
        short = np.zeros((num_points - len(scan), 3), scan.dtype)
        return np.concatenate([scan[drawn.permutation(len(scan))], short])
    whole, rest = divmod(num_points, len(scan))
    return np.concatenate([np.tile(scan, (whole, 1)), scan[drawn.permutation(len(scan))[:rest]]])


def mirror(drawn: np.random.Generator) -> np.ndarray:
    """Signs of x, y and z: x and z turned or not, each with probability one half."""
    x, z = drawn.choice(np.array([-1, 1], np.float32), 2)
    return np.array([x, 1, z], np.float32)


class CompletionData(TaskData):
    """Splits of scans with complete clouds.

    Args:
        source: "generated", or a folder as `pcn` describes it.
        num_points: Of a complete cloud of a file.
        num_scan_points: To which a scan of a file is resampled.
        fill: Where a scan has fewer: "zeros" pads it with points at the origin, "repeat" repeats
            its points.
        num_train: Generated training rows.
        num_eval: Generated rows of each evaluation.
        cache_dir: Where clouds of files are kept; see `tasks.cache.cache_folder`.
        **loading: See `TaskData`.
    """

    def __init__(
        self,
        *,
        source: str,
        num_points: int = 16_384,
        num_scan_points: int = 2048,
        fill: str = "zeros",
        num_train: int = 4096,
        num_eval: int = 512,
        cache_dir: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_counts(
            num_points=num_points,
            num_scan_points=num_scan_points,
            num_train=num_train,
            num_eval=num_eval,
        )
        if fill not in FILLS:
            raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}")
        if source == "hub":
            raise ValueError(
                "point_cloud_completion has no data set on the hub; give the folder of PCN, as of "
                "github.com/yuxumin/PoinTr (DATASET.md)"
            )
        self.source = source
        self.num_points, self.num_scan_points, self.fill = num_points, num_scan_points, fill
        self.num_train, self.num_eval = num_train, num_eval
        self.cache_dir = cache_dir
        self.categories: Sequence[str] = ("generated",)

    @property
    def dataset(self) -> str:
        """PCN, marked where it is only a part; or what is generated."""
        if self.source == "generated":
            return "axles-synthetic"
        is_complete = len(self.train) == pcn.OFFICIAL_TRAIN_ROWS
        return "PCN" if is_complete else "PCN-sample"

    @property
    def facts(self) -> dict[str, Any]:
        """How many categories the scores are averaged over."""
        return {"num_categories": len(self.categories)}

    def setup(self, stage: str | None = None) -> None:
        """Read or generate all splits, once."""
        if hasattr(self, "train"):
            return
        if self.source == "generated":
            self.train = MadeClouds(self.num_train, self.seed)
            self.validation = MadeClouds(self.num_eval, VALIDATION_SEED)
            self.test = MadeClouds(self.num_eval, TEST_SEED)
            return
        splits = [self._read(split) for split in pcn.SPLITS]
        self.categories = sorted({n.split("/")[0] for split in splits for n in split.names})
        self.train, self.validation, self.test = (
            ScannedClouds(objects, self.categories, self.num_scan_points, self.fill, seed)
            for objects, seed in zip(splits, (self.seed, None, None), strict=True)
        )

    def _read(self, split: str) -> Prepared:
        return pcn.read_split(
            Path(self.source),
            split,
            num_points=self.num_points,
            num_scans=NUM_SCANS if split == "train" else 1,
            cache_dir=self.cache_dir,
            num_workers=self.num_workers,
        )

    def trivial_scores(self) -> Mapping[str, Mapping[str, float]]:
        """What the scan itself reaches, and points of training shapes, as many as a scan has."""
        scores = {
            rule: GroupMeans(("cd_l1", "cd_l2", "f_score"), len(self.categories))
            for rule in ("the scan", "points of the training shapes")
        }
        guess = self._training_points(self.test[torch.tensor([0])].scan.shape[1])
        for rows in torch.arange(len(self.test)).split(AT_ONCE):
            batch = self.test[rows]
            for rule, cloud in zip(
                scores, (batch.scan, guess.expand(len(rows), -1, -1)), strict=True
            ):
                scores[rule].update(cloud_scores(cloud, batch.complete), batch.category)
        return {
            rule: {name: float(value) for name, value in means.compute().items()}
            for rule, means in scores.items()
        }

    def _training_points(self, count: int) -> Tensor:
        """(1, count, 3): as many complete clouds as can be, and a few points of each."""
        generator = torch.Generator().manual_seed(EVAL_SEED)
        each = -(-count // len(self.train))
        rows = torch.randperm(len(self.train), generator=generator)[: -(-count // each)]
        points = []
        for some in rows.split(AT_ONCE):
            complete = self.train[some].complete
            index = torch.rand(complete.shape[:2], generator=generator).argsort(dim=1)[:, :each]
            points.append(complete.gather(1, index[..., None].expand(-1, -1, 3)).flatten(0, 1))
        return torch.cat(points)[None, :count]
