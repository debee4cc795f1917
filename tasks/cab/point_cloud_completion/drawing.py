"""A picture of clouds of points, one row for each object."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

SIZE = 3.0
"""Inches of one cloud."""
MOST_POINTS = 4096
"""That are drawn of a cloud: more are a solid surface."""


def draw_clouds(path: Path, clouds: Mapping[str, Tensor]) -> None:
    """Write a PNG.

    Args:
        path: Its file.
        clouds: What stands above a column, and its clouds (rows, points, 3); y is upwards. Every
            cloud of a row is drawn to one scale.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = {title: cloud.detach().float().cpu().numpy() for title, cloud in clouds.items()}
    num_rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(SIZE * len(columns), SIZE * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    for row in range(num_rows):
        together = np.concatenate([cloud[row] for cloud in columns.values()])
        low, high = together.min(axis=0), together.max(axis=0)
        middle, half = (low + high) / 2, (high - low).max() / 2 or 1.0
        for column, (title, cloud) in enumerate(columns.items()):
            place = row * len(columns) + column + 1
            axes = figure.add_subplot(num_rows, len(columns), place, projection="3d")
            _draw(axes, cloud[row], middle, half)
            if row == 0:
                axes.set_title(title)
    figure.savefig(path, dpi=100)


def _draw(axes: Any, points: np.ndarray, middle: np.ndarray, half: float) -> None:
    points = points[:: -(-len(points) // MOST_POINTS)]
    points = points[(points != 0).any(axis=1)]  # padding
    depth = points[:, [0, 2, 1]]  # matplotlib's third axis is upwards
    axes.scatter(*depth.T, c=depth[:, 1], cmap="viridis", s=1.5, linewidths=0, depthshade=False)
    for name, axis in zip("xyz", (0, 2, 1), strict=True):
        getattr(axes, f"set_{name}lim")(middle[axis] - half, middle[axis] + half)
    axes.set_box_aspect((1, 1, 1))
    axes.set_axis_off()
