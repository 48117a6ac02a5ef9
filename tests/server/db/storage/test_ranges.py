"""Ranges of time, without a database."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.db.storage.ranges import FIRST_SECONDS, MOST_RANGES, WIDTHS_SECONDS, Range, choose_width, missing_ranges

SECOND = 1_000_000
MIB = 2**20
DAY = 86_400


@given(
    widths=st.lists(st.sampled_from([1, 5, 60, 600, 3600]), min_size=1, max_size=5),
    spans=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 5_000)), min_size=1, max_size=5),
)
@settings(max_examples=80, deadline=None)
def test_ranges_cover_and_never_overlap(widths: list[int], spans: list[tuple[int, int]]) -> None:
    """Whatever was asked for in whatever order, with widths that change: each time asked for lies in exactly one range."""
    known: list[Range] = []
    for (since, length), width in zip(spans, widths * 5, strict=False):
        start, end = since * SECOND + 7, (since + min(length, 190 * width)) * SECOND + 7
        known += missing_ranges(known, start, end, width * SECOND)
        known.sort()
        assert all(before.end <= after.start for before, after in pairwise(known))
        assert all(part.start < part.end for part in known)
        at = start
        for part in known:
            if part.start <= at < part.end:
                at = part.end
        assert at > end
        assert missing_ranges(known, start, end, width * SECOND) == []


def test_a_new_width_continues_where_the_last_range_ends() -> None:
    """Up to the next multiple of the new width, and from there in whole ones; a gap is filled up to its other end."""
    known = [Range(0, 30), Range(30, 60), Range(1000, 1100)]

    assert missing_ranges(known, 0, 650, 500) == [Range(60, 500), Range(500, 1000)]
    assert missing_ranges(known, 1050, 1600, 500) == [Range(1100, 1500), Range(1500, 2000)]
    assert missing_ranges([], 90, 90, 60) == [Range(60, 120)]


@pytest.mark.parametrize(
    ("retention", "ahead", "rate", "memory_mib", "width"),
    [
        (DAY, 180, None, 64, 600),  # nothing known: as narrow as the number allows
        (120, 70, None, 64, 10),  # or a tenth of the window
        (2 * 3600, 180, None, 64, FIRST_SECONDS),
        (DAY, 180, 0.0, 64, 7200),
        (DAY, 180, 20_000.0, 64, 1800),  # 3,355 s would fit
        (120, 70, 4e6, 32, 5),
        (DAY, 180, 4e6, 32, 600),  # the number of ranges beats memory
        (1, 61, 1e9, 32, 1),
        (365 * DAY, 180, 4e6, 32, 2 * DAY),
        (10 * 365 * DAY, 180, 4e6, 32, 30 * DAY),
    ],
)
def test_widths(retention: float, ahead: float, rate: float | None, memory_mib: int, width: int) -> None:
    """A range's index fits into memory unless the number of ranges forbids it; a row stays a tenth longer at most."""
    chosen = choose_width(retention, ahead, rate, memory_mib * MIB)

    assert chosen.seconds == width
    assert chosen.index_bytes == (rate or 0) * width


@given(
    retention=st.floats(1, 10 * 365 * DAY), ahead=st.floats(0.1, 3600), rate=st.floats(0, 1e9),
    memory=st.integers(1, 2**40),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_window_never_takes_too_many_ranges(retention: float, ahead: float, rate: float, memory: int) -> None:
    """Whatever the rate and the memory; and the narrowest that would do is taken only where memory asks for it."""
    chosen = choose_width(retention, ahead, rate, memory)

    assert (retention + ahead) / chosen.seconds + 2 <= MOST_RANGES
    assert chosen.seconds in WIDTHS_SECONDS or chosen.seconds % DAY == 0
