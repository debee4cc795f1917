"""The picture of attention maps."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from runners.analysis.drawing import draw


def test_a_long_title_stays_in_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def spy(self: Figure, *args: object, **settings: object) -> None:
        drawn.append(self)
        save(self, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", spy)
    title = "listops softmax noncausal_self seed 0 max_steps=60 val_check_interval=60"
    draw(tmp_path / "maps.png", [("layer0", np.full((1, 4, 4), 0.25))], title)
    (figure,) = drawn
    figure.draw_without_rendering()  # at its own resolution again
    (text,) = figure.texts
    assert text.get_text().split() == title.split()
    box = text.get_window_extent().transformed(figure.transFigure.inverted())
    assert (box.x0, box.y0) > (0, 0)
    assert max(box.x1, box.y1) < 1
    panel = figure.axes[0].title.get_window_extent().transformed(figure.transFigure.inverted())
    assert panel.y1 < box.y0
