"""What is stored against what was sent, array by array, is what a loop over rows would say."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loadtests.compare import Compared, compare_samples
from simulator.expected_samples import ExpectedSamples
from simulator.ledger import STATUSES, Status
from simulator.samples import SAMPLE, Sample, in_tuples

FAR = 4 * 10**18
"""Keys and times so far apart that no product of theirs fits into 64 bits."""
KEYS = st.tuples(st.sampled_from((1, 2, FAR)), st.sampled_from((0, 1_000_000, 2_000_000, FAR)))
VALUES = st.tuples(st.sampled_from((None, 1.5)), st.sampled_from((7, 8)), st.sampled_from((None, 9)))
ROWS = st.builds(lambda key, values: Sample(key[0], key[1], values[0], values[1], values[2], 3), KEYS, VALUES)
SENT = st.lists(st.tuples(ROWS, st.sampled_from(STATUSES), st.booleans()), max_size=8)


def array(rows: list[Sample]) -> np.ndarray:
    """Rows as the verifier holds them."""
    found = np.zeros(len(rows), SAMPLE)
    for place, row in enumerate(rows):
        nulls = (row.cpu is None) | (row.rx is None) << 2
        found[place] = (row.container_id, row.at, row.cpu or 0, row.mem, row.rx or 0, row.tx, nulls)
    return found


def by_loop(
    sent: list[tuple[Sample, Status, bool]], stored: list[Sample], known_until: int | None
) -> tuple[Counter[str], int]:
    """Counts, and how many are unverified: row by row, as the rules of `loadtests.verify` are written."""
    known = {row[:2]: (row, status) for row, status, _ in sent}
    counts, unverified, seen = Counter[str](), 0, set[tuple[int, int]]()
    for row in stored:
        was, status = known.get(row[:2], (None, Status.UNSENT))
        silent = known_until is not None and (row.at >= known_until if was is None else status is Status.UNSENT)
        if row[:2] in seen:
            counts["foreign"] += 1
        elif silent:
            unverified += 1
        elif was is None or status in {Status.REJECTED, Status.UNSENT}:
            counts["foreign"] += 1
        elif status is not Status.CONFLICTED and row != was:
            counts["altered"] += 1
        seen.add(row[:2])
    counts["missing"] = sum(required and row[:2] not in seen for row, _, required in sent)
    return counts, unverified


@given(SENT, st.lists(ROWS, max_size=8), st.sampled_from((None, 0, 1_000_000, FAR)))
def test_arrays_are_compared_as_rows_would_be(
    sent: list[tuple[Sample, Status, bool]], stored: list[Sample], known_until: int | None
) -> None:
    """Whatever the order, with keys that come twice on either side, with nothing on one, and with keys far apart."""
    rows, statuses, required = zip(*sent, strict=True) if sent else ((), (), ())
    expected = ExpectedSamples(
        array(list(rows)),
        np.array([STATUSES.index(status) for status in statuses], np.uint8),
        np.array(required, np.bool_),
    )

    found: Compared = compare_samples(expected, array(stored), known_until)

    counts, unverified = by_loop(sent, stored, known_until)
    assert (+found.counts, found.unverified) == (+counts, unverified)
    assert (found.required, found.stored) == (sum(required), len(stored))
    assert in_tuples(array(stored)) == stored
