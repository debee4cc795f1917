"""Attention maps as a picture: a panel for each place and head."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runners.files import whole

MOST = 8
"""Places, and heads, that a picture shows."""
CHARACTER, LINE = 0.08, 0.17
"""Inches of the title's letters and lines."""


def draw(
    path: Path,
    maps: Sequence[tuple[str, np.ndarray]],
    title: str,
    marks: Sequence[tuple[int, int]] = (),
) -> None:
    """Draw the maps of one example, (H, M, N) by name of their place, to a PNG.

    A map has a scale of its own, from zero to its greatest weight, in which colours go by the
    square root: a weight of a hundredth is still seen. Weights with signs are red and blue.

    Args:
        marks: (query, key) that hold an answer, circled.
    """
    shown = maps[:MOST]
    num_heads = min(MOST, max(weights.shape[0] for _, weights in shown))
    side, left, top = 2.3, 0.75, 0.4
    width = left + num_heads * side
    lines = textwrap.wrap(title, int(width / CHARACTER))
    top += LINE * (len(lines) - 1)
    size = (width, top + len(shown) * side + 0.2)
    figure = Figure(figsize=size)
    text = {"fontsize": 9.5, "fontweight": "bold", "va": "top"}
    figure.text(0.1 / size[0], 1 - 0.1 / size[1], "\n".join(lines), **text)
    for i, (name, weights) in enumerate(shown):
        for h in range(min(num_heads, weights.shape[0])):
            bottom = size[1] - top - (i + 1) * side + 0.35
            axes = figure.add_axes(
                (
                    (left + h * side) / size[0],
                    bottom / size[1],
                    (side - 0.35) / size[0],
                    (side - 0.5) / size[1],
                )
            )
            _panel(axes, weights[h], marks)
            axes.set_title(f"{name}, head {h}: to {np.abs(weights[h]).max():.2g}", fontsize=8)
            if h == 0:
                axes.set_ylabel("query", fontsize=8)
            if i == len(shown) - 1:
                axes.set_xlabel("key", fontsize=8)
    with whole(path) as file:
        figure.savefig(file.buffer, format="png", dpi=130)


def _panel(axes: Axes, weights: np.ndarray, marks: Sequence[tuple[int, int]]) -> None:
    greatest = np.abs(weights).max() or 1.0
    seen = np.sign(weights) * np.sqrt(np.abs(weights) / greatest)
    # What rounding leaves below zero is no sign.
    signed = weights.min() < -1e-4 * greatest
    colours, least = ("RdBu_r", -1.0) if signed else ("Blues", 0.0)
    axes.imshow(seen, cmap=colours, vmin=least, vmax=1.0, aspect="auto")
    for query, key in marks:
        axes.plot(key, query, "o", mfc="none", mec="#009E73" if signed else "#D55E00", ms=5, mew=1)
    axes.tick_params(labelsize=7)
    axes.grid(visible=False)
