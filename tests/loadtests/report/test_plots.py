"""Figures as SVG and PNG."""

import re
from xml.etree import ElementTree as ET  # of documents that we made

import matplotlib as mpl
import pytest

from loadtests.report.figures import Figure, Line, Panel
from loadtests.report.plots import _MARKS, _SETTINGS, NARROW_INCHES, SERIES, Mark, _draw, png, svg

NAME = "a <b> & $\\frac{1}{0}$"
FIGURE = Figure(
    "key", "Title", "told", [Panel("MB", [Line("m", NAME, [(0.0, 1.0), (5.0, 2.0)], ".metrics.m.points")])], (0.0, 10.0)
)
_COLORS = {color: color for color in _MARKS}
MARKS = [Mark(2.0, 4.0, "server_kill $x$")]


def test_the_page_decides_the_colours() -> None:
    """The SVG has variables and no colour of its own, and is the same each time."""
    drawn = svg(FIGURE, MARKS, narrow=False)

    assert {"--s0", "--ink", "--muted", "--grid", "--fault"} <= set(re.findall(r"var\((--[a-z0-9]+)\)", drawn))
    assert not re.search(r"#(?:0101|0102)[0-9a-f]{2}", drawn)
    assert drawn == svg(FIGURE, MARKS, narrow=False)


def test_both_widths_may_stand_in_one_page() -> None:
    """No identifier is in both."""
    ids = [set(re.findall(r'id="([^"]+)"', svg(FIGURE, MARKS, narrow=narrow))) for narrow in (False, True)]
    clips = [{name for name in found if name.startswith("p")} - {"patch_1"} for found in ids]

    assert not {name for name in clips[0] & clips[1] if not name.startswith("patch_")}


def test_names_are_text() -> None:
    """A name with markup and a formula is drawn as it is."""
    texts = "".join(ET.fromstring(svg(FIGURE, MARKS, narrow=True).replace("xlink:", "")).itertext())  # noqa: S314

    assert NAME in texts
    assert "server_kill $x$" in texts


def test_a_picture_is_made_with_real_colours() -> None:
    """The PNG needs no page."""
    assert png(FIGURE, MARKS).startswith(b"\x89PNG")
    assert len(set(SERIES)) == len(SERIES)


@pytest.mark.parametrize("zero", [True, False])
def test_names_of_faults_stand_above_the_lines(zero: bool) -> None:
    """However high a line goes, and on either axis: the lowest name is over the highest value."""
    lines = [Line("m", "m", [(0.0, 1.0), (5.0, 900.0)], "")]
    marks = [Mark(2.0 + i, 4.0 + i, f"fault {i}") for i in range(4)]
    with mpl.rc_context(_SETTINGS):
        canvas = _draw(Figure("k", "T", "t", [Panel("ms", lines, zero=zero)], (0.0, 10.0)), marks, _COLORS, width=4.0)
        canvas.canvas.draw()
        (ax,) = canvas.axes
        names = [text.get_window_extent() for text in ax.texts]
        highest = ax.transData.transform((5.0, 900.0))[1]

    assert len(names) == len(marks)
    assert min(box.y0 for box in names) > highest


def test_a_long_legend_takes_no_room_from_its_panel() -> None:
    """On a phone labels that do not fit side by side stand below each other."""
    lines = [
        Line(name, name, [(0.0, 1.0), (5.0, 2.0)], "") for name in ("rows not committed", "frames for subscribers")
    ]
    with mpl.rc_context(_SETTINGS):
        canvas = _draw(Figure("k", "T", "t", [Panel("MB", lines)], (0.0, 10.0)), [], _COLORS, width=NARROW_INCHES)
        canvas.canvas.draw()
        (ax,) = canvas.axes
        legend = ax.get_legend()
        assert legend is not None
        assert legend.get_window_extent().x1 <= canvas.bbox.x1
        assert ax.get_window_extent().width > 0.75 * canvas.bbox.width
