from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runners.report import drawing
from runners.report.drawing import COLOURS, styles


def test_one_colour_and_marker_per_mechanism_and_a_line_per_settings() -> None:
    found = styles([("abc", "", ""), ("abc", "window=8", ""), ("local", "", "")])
    plain, windowed, other = found.values()
    assert (plain.colour, plain.marker) == (windowed.colour, windowed.marker)
    assert plain.line != windowed.line
    assert plain.colour != other.colour


def test_the_look_depends_on_the_mechanisms_and_not_on_their_order() -> None:
    rows = [("b", "", ""), ("a", "", ""), ("softmax", "", ""), ("none", "", "")]
    assert styles(rows) == styles(rows[::-1])
    assert styles(rows)["softmax", "", ""].colour == "#000000"


def test_a_hundred_mechanisms_of_sixteen_settings_look_different() -> None:
    rows = [(f"m{i:03}", f"w={j:02}", "") for i in range(108) for j in range(16)]
    assert len(set(styles(rows).values())) == len(rows)
    assert len(COLOURS) * len(drawing.MARKERS) == 108


def test_a_colour_that_comes_again_has_another_line_and_marker() -> None:
    found = list(styles([(f"m{i:03}", "", "") for i in range(27)]).values())
    for one, again in zip(found, found[9:], strict=False):
        assert one.colour == again.colour
        assert one.marker != again.marker
        assert one.line != again.line


@pytest.mark.parametrize("count", [3, 9, 20, 45, 100])
def test_every_name_of_a_legend_is_in_the_picture(count: int) -> None:
    rows = [("softmax", "", "")]
    rows += [(f"a_mechanism_{i:03}", "window=8", "") for i in range(count - 1)]
    figure, _ = drawing.panels(1, 1, 2.8, 2.3, names=rows)
    drawing.legend(figure, rows, styles(rows))
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    box, room = legend.get_window_extent(), figure.bbox
    assert len(legend.texts) == count
    assert room.x0 <= box.x0
    assert box.x1 <= room.x1 + 1
    assert room.y0 <= box.y0
    assert box.y1 <= room.y1
    assert figure.axes[0].get_window_extent().x1 <= box.x0


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_stands_out_from_white(colour: str) -> None:
    # WCAG asks 3 of graphics; markers help sky blue and orange, which Okabe and Ito put at 2.
    assert 1.05 / (luminance(colour) + 0.05) > 2.0


def test_marks_of_lengths_do_not_overlap() -> None:
    axes = Figure().subplots()
    axes.plot([256, 16384], [1, 1])
    drawing.length_axis(axes, [256, 8192, 12288, 16384])
    assert sorted(axes.get_xticks()) == [256, 8192, 16384]
    drawing.length_axis(axes, [2.0**i for i in range(4, 24)])
    assert 5 <= len(axes.get_xticks()) <= 9


def test_lengths_are_written_short() -> None:
    axes = Figure().subplots()
    axes.plot([100, 8192], [1, 1])
    drawing.length_axis(axes, [100, 512, 1024, 8192])
    FigureCanvasAgg(axes.figure).draw()  # type: ignore[arg-type]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8k", "1k", "512", "100"]


def test_the_same_figure_gives_the_same_files(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        figure, grid = drawing.panels(1, 1, 2, 1)
        grid[0, 0].plot([1, 2], [1, 2])
        drawing.save(figure, tmp_path, name)
        written.append([(tmp_path / f"{name}.{kind}").read_bytes() for kind in ("png", "svg")])
    assert written[0] == written[1]
