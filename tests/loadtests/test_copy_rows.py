"""Samples packed by numpy are those packed one by one, and what COPY gives is read back."""

import numpy as np
import pytest

from loadtests.copy_rows import CopyError, packed, unpacked, unpacked_lines
from server.db.storage.base import LogRow
from server.rows import COPY_HEADER, copy_data, metric_head, pack_log, pack_metric, pack_time
from simulator.samples import SAMPLE, Sample, Samples, in_tuples
from tests.support.rows import metrics_out

TOP = 2**63 - 1
VALUES = (0.25, 0, TOP, 7)
ROWS = [
    Sample(
        mask + 1,
        1_700_000_000_000_000 + mask,
        *(None if mask >> bit & 1 else value for bit, value in enumerate(VALUES)),  # type: ignore[arg-type]
    )
    for mask in (0, 1, 12, 0, 15, 6, 0)
]
LINES = [
    LogRow(1, 1_700_000_000_000_000, 0, "stdout", "", False, True),
    LogRow(TOP, 1_700_000_000_000_001, 2**31 - 1, "stderr", "größe 🚀", True, False),
]


def as_array(rows: list[Sample]) -> Samples:
    """Samples as an array."""
    array = np.zeros(len(rows), SAMPLE)
    for place, row in enumerate(rows):
        nulls = sum(1 << bit for bit, value in enumerate(row[2:]) if value is None)
        array[place] = (*row[:2], *(value or 0 for value in row[2:]), nulls)
    return array


def test_samples_are_packed_as_a_lane_packs_them() -> None:
    """Row by row the same bytes, for every kind of null; those with nulls come last."""
    by_hand = [pack_metric(metric_head(row[0]), pack_time(row[1]), *row[2:]) for row in ROWS]
    order = sorted(range(len(ROWS)), key=lambda place: int(as_array(ROWS)[place]["nulls"]))

    assert packed(as_array(ROWS)) == copy_data(by_hand[place] for place in order)
    assert packed(as_array([])) == copy_data([])


def test_samples_come_back() -> None:
    """What a strategy hands out is what it stored."""
    assert in_tuples(unpacked(metrics_out(ROWS))) == ROWS
    assert in_tuples(unpacked(metrics_out([]))) == []


def test_lines_come_back() -> None:
    """Empty, in other scripts, partial, truncated."""
    data = copy_data(pack_log(row[0], row[1], row[2], row[3], row[4].encode(), *row[5:]) for row in LINES)
    assert unpacked_lines(data) == LINES
    assert unpacked_lines(copy_data([])) == []


@pytest.mark.parametrize(
    "data", [b"", COPY_HEADER, metrics_out(ROWS)[:-1], metrics_out(ROWS)[:-20], b"x" + metrics_out(ROWS)[1:]]
)
def test_a_broken_copy_is_noticed(data: bytes) -> None:
    """Cut or of another shape it is an error, never other rows."""
    with pytest.raises(CopyError, match=r"expected|bytes"):
        unpacked(data)
    with pytest.raises(CopyError):
        unpacked_lines(data)
