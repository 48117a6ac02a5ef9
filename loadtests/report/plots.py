"""Draws figures with matplotlib: SVG whose colours the page decides, and PNG. Imported by the reporting process only."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from loadtests.numbers import number
from loadtests.report.figures import Figure, Line, Panel

INK, MUTED, GRID, FAULT = "#1c2330", "#5b6573", "#d5dae1", "#c2263d"
SERIES = ("#0b6bcb", "#c2570c", "#1a7f4b", "#8a3fb3", "#a8780a", "#0e7c86")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), "-", (0, (5, 2)))
"""Beside the colour, for who does not tell colours apart."""
_MARKS = {INK: "#010101", MUTED: "#010102", GRID: "#010103", FAULT: "#010104"} | {
    color: f"#0102{i:02x}" for i, color in enumerate(SERIES)
}
"""Colours that stand in the SVG for the page's variables."""
_VARIABLES = {
    _MARKS[INK]: "var(--ink)", _MARKS[MUTED]: "var(--muted)", _MARKS[GRID]: "var(--grid)", _MARKS[FAULT]: "var(--fault)",
} | {_MARKS[color]: f"var(--s{i})" for i, color in enumerate(SERIES)}  # fmt: skip

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    # Names come from outside: a dollar is a dollar.
    "text.parse_math": False,
    "text.usetex": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "path.simplify": True,
}
WIDE_INCHES, NARROW_INCHES, PANEL_INCHES = 9.4, 4.0, 2.1
_AXIS_INCHES = 0.5
"""Beside a panel: its ticks and its unit."""
_CHARACTER_INCHES, _HANDLE_CHARACTERS = 0.066, 6
"""Of a legend's text, and how much room the sample of a line takes beside it."""
_NAME_ROWS, _NAME_ROOM = 3, 0.11
"""Names of faults stand in so many rows above the lines, and each takes such a share of the panel."""
_PERCENTILE_TICKS = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


@dataclass(frozen=True, slots=True)
class Mark:
    """A fault, or the warm-up, in seconds since the start of the load."""

    begins: float
    ends: float
    """When its phase is over."""
    label: str
    quiet: bool = False
    """Whether nothing broke."""


def svg(figure: Figure, marks: Sequence[Mark], *, narrow: bool) -> str:
    """The figure as an SVG element to stand in a page that has the variables --ink, --muted, --grid, --fault, --s0 ..."""
    # Identifiers are made of this: in one page they must differ.
    salt = {"svg.hashsalt": f"{figure.key}-{narrow}"}
    with mpl.rc_context(_SETTINGS | salt), io.StringIO() as file:
        canvas = _draw(figure, marks, _MARKS, width=NARROW_INCHES if narrow else WIDE_INCHES)
        canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        text = file.getvalue()
    for mark, variable in _VARIABLES.items():
        text = text.replace(mark, variable)
    text = text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{figure.title}" ', 1)
    return text.replace("font: 9px 'DejaVu Sans'", "font: 9px sans-serif")


def png(figure: Figure, marks: Sequence[Mark]) -> bytes:
    """The figure as PNG, on white."""
    with mpl.rc_context(_SETTINGS), io.BytesIO() as file:
        canvas = _draw(figure, marks, {color: color for color in _MARKS}, width=WIDE_INCHES)
        canvas.patch.set_facecolor("white")
        canvas.savefig(file, format="png", metadata={"Software": None})
        return file.getvalue()


def _draw(figure: Figure, marks: Sequence[Mark], colors: dict[str, str], *, width: float) -> Canvas:
    panels = figure.panels
    canvas = Canvas(figsize=(width, PANEL_INCHES * len(panels) + 0.5), dpi=110, layout="constrained")
    canvas.patch.set_facecolor("none")
    axes = canvas.subplots(len(panels), 1, sharex=True, squeeze=False)
    for row, (panel, (ax,)) in enumerate(zip(panels, axes, strict=True)):
        _style(ax, panel, colors)
        for i, line in enumerate(panel.lines):
            _plot(ax, line, colors[SERIES[i % len(SERIES)]], DASHES[i % len(DASHES)], percentiles=figure.percentiles)
        if figure.percentiles:
            _percentile_axis(ax, panel)
        else:
            ax.set_xlim(*figure.span)
            _mark(ax, marks, colors, named=row == 0)
        ax.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=_columns(panel, width), frameon=False,
            fontsize=8.5, labelcolor=colors[INK], handlelength=2.2, borderaxespad=0.2, columnspacing=1.2,
        )  # fmt: skip
    axes[-1][0].set_xlabel("percentile" if figure.percentiles else "seconds since the load began", color=colors[MUTED])
    canvas.align_ylabels()
    return canvas


def _columns(panel: Panel, width: float) -> int:
    """Columns of a legend that is no wider than its panel: it would take the room from the panel."""
    longest = max((len(line.label) for line in panel.lines), default=0)
    return max(1, min(6, int((width - _AXIS_INCHES) / ((longest + _HANDLE_CHARACTERS) * _CHARACTER_INCHES))))


def _style(ax: Axes, panel: Panel, colors: dict[str, str]) -> None:
    ax.set_facecolor("none")
    for spine in ax.spines.values():
        spine.set_color(colors[GRID])
    ax.tick_params(colors=colors[MUTED], labelcolor=colors[MUTED], length=3)
    ax.grid(visible=True, color=colors[GRID], linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_ylabel(panel.unit, color=colors[MUTED])
    values = [y for line in panel.lines for _, y in line.points if y > 0]
    least, most = min(values, default=1.0), max(values, default=1.0)
    if panel.zero:
        ax.yaxis.set_major_locator(MaxNLocator(5))
        # A line at 0 must not hide behind the axis.
        ax.set_ylim(-0.03 * most, 1.08 * most)
    else:
        ax.set_yscale("log")
        ax.set_ylim(least / 1.5, most * 1.5)
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if most < 30 * least else (1.0,), numticks=7))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _plot(ax: Axes, line: Line, color: str, dashes: Any, *, percentiles: bool) -> None:
    xs = [_place(x) if percentiles else x for x, _ in line.points]
    ax.plot(
        xs, [y for _, y in line.points], color=color, linestyle=dashes, linewidth=1.6, label=line.label,
        marker="o" if len(xs) == 1 else "", markersize=4, solid_joinstyle="round",
    )  # fmt: skip


def _place(percentile: float) -> float:
    """Where a percentile stands: each further nine takes the same room."""
    return 1 / max(1 - percentile / 100, 1e-6)


def _percentile_axis(ax: Axes, panel: Panel) -> None:
    last = max((_place(line.points[-1][0]) for line in panel.lines if line.points), default=10.0)
    ax.set_xscale("log")
    ax.set_xlim(1, max(last * 1.3, 12))
    ticks = [percentile for percentile in _PERCENTILE_TICKS if _place(percentile) <= ax.get_xlim()[1]]
    ax.set_xticks([_place(percentile) for percentile in ticks], [f"{percentile:g}" for percentile in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def _mark(ax: Axes, marks: Sequence[Mark], colors: dict[str, str], *, named: bool) -> None:
    """Shade the warm-up, and each fault with what it takes to calm down, and name it at the top, above the lines."""
    if named and marks:
        _make_room(ax, _NAME_ROOM * min(len(marks), _NAME_ROWS))
    for i, mark in enumerate(marks):
        color = colors[MUTED if mark.quiet else FAULT]
        ax.axvspan(mark.begins, mark.ends, color=color, alpha=0.09, linewidth=0)
        ax.axvline(mark.ends if mark.quiet else mark.begins, color=color, linewidth=1.1, linestyle=(0, (3, 2)))
        if named:
            ax.annotate(
                mark.label, (mark.begins, 1), xycoords=("data", "axes fraction"), xytext=(4, -11 - 11 * (i % _NAME_ROWS)),
                textcoords="offset points", color=color, fontsize=8.5, annotation_clip=True,
            )  # fmt: skip


def _make_room(ax: Axes, share: float) -> None:
    """Leave a share of the panel free at its top."""
    low, high = ax.transData.inverted().transform(ax.transAxes.transform([(0, 0), (0, 1 / (1 - share))]))[:, 1]
    ax.set_ylim(low, high)
