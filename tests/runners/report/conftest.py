from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runners.report import drawing


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures by name, drawn but not written."""
    figures: dict[str, Figure] = {}

    def keep(figure: Figure, folder: Path, name: str) -> None:
        FigureCanvasAgg(figure).draw()
        figures[name] = figure

    monkeypatch.setattr(drawing, "save", keep)
    return figures
