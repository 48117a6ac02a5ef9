"""Ranges of time: which are missing, and how wide the next ones should be. Pure; times in Unix microseconds, UTC."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

MOST_RANGES = 200
"""Of a table: more make planning a query, and the locks that it takes, cost more than they save."""
_SPARE_RANGES = 10
"""For short ones, where the width changed."""
FIRST_SECONDS = 60
"""Width while nothing is known of the rate."""
FINEST_SHARE = 10
"""A row stays up to one width longer than the retention: at most a tenth of it."""

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
WIDTHS_SECONDS = (
    1, 2, 5, 10, 15, 20, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 15 * _MINUTE, 20 * _MINUTE, 30 * _MINUTE,
    _HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY,
)  # fmt: skip
"""Widths that are used: round ones, so that a rate that wavers changes nothing."""


class Range(NamedTuple):
    """From `start` up to `end`, exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Width:
    """How wide the next ranges are, and what memory each takes."""

    seconds: int
    index_bytes: int
    """Indexes of one range, all tables together, when it is full; 0: the rate is not known."""


def choose_width(
    retention_seconds: float, ahead_seconds: float, index_bytes_per_second: float | None, memory_bytes: int
) -> Width:
    """The width at which the indexes of a range fit into memory.

    It is never so narrow that the window took more than `MOST_RANGES`, whatever the memory; nor wider than a tenth of the
    retention, if the number allows.

    Args:
        retention_seconds: how old rows become.
        ahead_seconds: how far ahead ranges are created.
        index_bytes_per_second: growth of the indexes of all tables; None: not known yet.
        memory_bytes: what the indexes of one range may take.
    """
    least = _rounded_up((retention_seconds + ahead_seconds) / (MOST_RANGES - _SPARE_RANGES))
    most = max(least, _rounded_down(retention_seconds / FINEST_SHARE))
    rate = index_bytes_per_second
    fits = FIRST_SECONDS if rate is None else _rounded_down(memory_bytes / rate) if rate else most
    seconds = min(most, max(least, fits))
    return Width(seconds, ceil((rate or 0.0) * seconds))


def missing_ranges(existing: Sequence[Range], since: int, until: int, width_us: int) -> list[Range]:
    """The ranges to create so that every time with since <= at <= until lies in one; none overlaps what exists.

    They begin at multiples of the width; one next to a range that exists begins where that ends, and ends where it begins.
    """
    taken = sorted(existing)
    made: list[Range] = []
    at = since
    while at <= until:
        covering = next((taken_range for taken_range in taken if taken_range.start <= at < taken_range.end), None)
        if covering is not None:
            at = covering.end
            continue
        start = at // width_us * width_us
        new = Range(
            max(start, max((r.end for r in taken if r.end <= at), default=start)),
            min(start + width_us, min((r.start for r in taken if r.start > at), default=start + width_us)),
        )
        made.append(new)
        at = new.end
    return made


def _rounded_up(seconds: float) -> int:
    """The next width that is used; past the widest one whole days."""
    return next((width for width in WIDTHS_SECONDS if width >= seconds), ceil(seconds / _DAY) * _DAY)


def _rounded_down(seconds: float) -> int:
    """The widest that is used and no wider; at least the narrowest."""
    return max((width for width in WIDTHS_SECONDS if width <= seconds), default=WIDTHS_SECONDS[0])
