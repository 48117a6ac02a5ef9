"""The chart that the generator's samples must give, computed from them alone, and what an answer has otherwise. Pure."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadtests.answers import CHART_VALUES, Chart
from server.db.storage.base import longest_gap_us
from simulator.samples import VALUES, Samples

TOLERANCE: Final = 1e-9
"""Relative: sums of floats differ in their last bits by the order in which they are added up."""

Values = NDArray[np.float64]


class Truth(NamedTuple):
    """The points of a chart; NaN: there is no value."""

    samples: NDArray[np.int64]
    values: dict[str, Values]
    """By `CHART_VALUES`."""


def truth(rows: Samples, at: list[int], step_us: int) -> Truth:
    """The chart of one container.

    Args:
        rows: its samples, those of `longest_gap_us(step_us)` before the first point included; in any order.
        at: begin of each point, Unix microseconds, without a gap between points.
        step_us: width of a point.
    """
    rows = rows[np.argsort(rows["at"], kind="stable")]
    since, points = at[0], len(at)
    place = (rows["at"] - since) // step_us
    inside = (rows["at"] >= since) & (place < points)
    values: dict[str, Values] = {}
    for name, short in (("cpu", "cpu"), ("mem", "mem")):
        known = inside & ~_null(rows, name)
        measured = rows[name].astype(np.float64)
        values[f"{short}_mean"] = _ratio(
            _sums(place, measured, known, points), np.bincount(place[known], minlength=points)
        )
        values[f"{short}_max"] = _largest(place, measured, known, points)
    pause = np.diff(rows["at"], prepend=rows["at"][:1] - longest_gap_us(step_us) - 1)
    for name in ("rx", "tx"):
        before = np.roll(rows[name], 1)
        null = _null(rows, name)
        paired = inside & ~null & ~np.roll(null, 1) & (pause <= longest_gap_us(step_us))
        rise = np.where(rows[name] >= before, rows[name] - before, rows[name]).astype(np.float64)
        seconds = _sums(place, pause / 1e6, paired, points)
        values[f"{name}_per_second"] = _ratio(_sums(place, rise, paired, points), seconds)
    return Truth(np.bincount(place[inside], minlength=points), values)


def differences(chart: Chart, expected: Truth, from_us: int) -> str:
    """What a chart tells otherwise, its first point that does, as a sentence; empty: nothing.

    Args:
        chart: as it was answered.
        expected: the same points.
        from_us: points before it are left out: samples of theirs may have been removed.
    """
    judged = np.array(chart.at) >= from_us
    wrong = judged & (np.array(chart.samples) != expected.samples)
    if wrong.any():
        place = int(np.argmax(wrong))
        return f"samples at {chart.at[place]} are {chart.samples[place]}: expected {expected.samples[place]}"
    for name in CHART_VALUES:
        found: Values = np.array(getattr(chart, name), dtype=np.float64)  # null becomes NaN
        same = np.isclose(found, expected.values[name], rtol=TOLERANCE, atol=0.0, equal_nan=True)
        if (judged & ~same).any():
            place = int(np.argmax(judged & ~same))
            return f"{name} at {chart.at[place]} is {found[place]:.17g}: expected {expected.values[name][place]:.17g}"
    return ""


def _null(rows: Samples, name: str) -> NDArray[np.bool_]:
    return (rows["nulls"] >> np.uint8(VALUES.index(name)) & np.uint8(1)).astype(np.bool_)


def _sums(place: NDArray[np.int64], values: Values, wanted: NDArray[np.bool_], points: int) -> Values:
    found: Values = np.bincount(place[wanted], weights=values[wanted], minlength=points).astype(np.float64)
    return found


def _ratio(above: Values, below: NDArray[np.float64 | np.int64]) -> Values:
    found: Values = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return found


def _largest(place: NDArray[np.int64], values: Values, wanted: NDArray[np.bool_], points: int) -> Values:
    found = np.full(points, -np.inf)
    np.maximum.at(found, place[wanted], values[wanted])
    return np.where(np.isinf(found), np.nan, found)
