"""What is stored against what was sent, for a slice of time that fits into memory.

A row that is stored must be one that was sent, under its key, once, with its values; a row that is required must be stored.
Samples are compared as arrays, log lines one by one: there are fewer of them, and their texts differ in length.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadtests.findings import EXAMPLES
from simulator.expected import ExpectedLog
from simulator.expected_samples import ExpectedSamples
from simulator.ledger import STATUSES, Status
from simulator.samples import VALUES, Samples, in_tuples

NOBODY: Final = "nobody sent it"
_TWICE: Final = "stored twice under one key"
_MISSING: Final = "acknowledged, not stored"
_CONFLICTED, _REJECTED, _UNSENT = (
    STATUSES.index(status) for status in (Status.CONFLICTED, Status.REJECTED, Status.UNSENT)
)
_KEYS_AT_MOST: Final = 1 << 63


class Difference(NamedTuple):
    """A row that is not as it must be."""

    kind: str
    """missing, foreign or altered."""
    row: Any
    words: str
    """What is wrong with it."""


@dataclass(slots=True)
class Compared:
    """What a comparison found. Counts are rows."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Difference] = field(default_factory=list)
    """The first few."""
    required: int = 0
    stored: int = 0
    unverified: int = 0
    """Stored rows that may have been sent after the ledgers' last word."""

    def add(self, kind: str, row: Any, words: str) -> None:
        """Count a difference, and keep it if there are few yet."""
        self.counts[kind] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(Difference(kind, row, words))

    def add_all(self, kind: str, rows: Samples, words: Sequence[str] | str) -> None:
        """Count samples that differ alike, and keep the first few; `words` is theirs, or of each."""
        self.counts[kind] += len(rows)
        for place, row in enumerate(in_tuples(rows[: EXAMPLES - len(self.examples)])):
            self.examples.append(Difference(kind, row, words if isinstance(words, str) else words[place]))


def compare_samples(expected: ExpectedSamples, stored: Samples, known_until: int | None) -> Compared:
    """Compare samples.

    Args:
        expected: what was sent, in any order.
        stored: what is stored, in any order.
        known_until: up to when (Unix microseconds) the ledgers tell of everything; None: of all that is stored.
    """
    found = Compared(required=int(np.count_nonzero(expected.required)), stored=len(stored))
    sent_keys, stored_keys = _keys(expected.rows, stored)
    order, stored_order = _rising(sent_keys), _rising(stored_keys)
    sent_keys, stored_keys = sent_keys[order], stored_keys[stored_order]
    # Two rising sequences are matched through memory from end to end: ten times as fast as one that jumps about in the other.
    # Where a key was sent twice, the later one has the say.
    matched = np.searchsorted(sent_keys, stored_keys, side="right") - 1
    known, left = np.zeros(len(stored), np.bool_), np.empty(len(stored), np.bool_)
    place = np.zeros(len(stored), np.int64)
    if len(order):
        known[stored_order], place[stored_order] = sent_keys[matched] == stored_keys, order[matched]
    left[stored_order] = _not_again(stored_keys)

    found.add_all("foreign", stored[~left], _TWICE)
    status = np.full(len(stored), _UNSENT, np.uint8)
    status[known] = expected.status[place[known]]
    if known_until is not None:
        silent = left & np.where(known, status == _UNSENT, stored["at"] >= known_until)
        found.unverified = int(np.count_nonzero(silent))
        left &= ~silent
    found.add_all("foreign", stored[left & ~known], NOBODY)
    left &= known
    for code in (_REJECTED, _UNSENT):
        found.add_all("foreign", stored[left & (status == code)], f"{STATUSES[code]}, and stored all the same")
    left &= (status != _REJECTED) & (status != _UNSENT) & (status != _CONFLICTED)
    # Field by field: numpy moves whole records slowly.
    left_at, sent_at = np.flatnonzero(left), place[left]
    differs = np.zeros(len(left_at), np.bool_)
    for name in ("nulls", *VALUES):
        differs |= stored[name][left_at] != expected.rows[name][sent_at]
    there, sent = stored[left_at[differs]], expected.rows[sent_at[differs]]
    pairs = zip(in_tuples(there[:EXAMPLES]), in_tuples(sent[:EXAMPLES]), strict=True)
    found.add_all("altered", there, [difference(*pair) for pair in pairs])

    is_there = _among(stored_keys, sent_keys)
    found.add_all("missing", expected.rows[order[expected.required[order] & ~is_there]], _MISSING)
    return found


def compare_lines(
    expected: Sequence[tuple[ExpectedLog, Status, bool]], stored: Sequence[Any], known_until: int | None
) -> Compared:
    """Compare log lines; see `compare_samples`. Of `expected` the third says whether the line is required."""
    found = Compared(stored=len(stored))
    known = {line[0][:3]: line for line in expected}
    seen: set[tuple[int, int, int]] = set()
    for row in stored:
        key = row[:3]
        sent = known.get(key)
        if key in seen:
            found.add("foreign", row, _TWICE)
        elif known_until is not None and (row.at >= known_until if sent is None else sent[1] is Status.UNSENT):
            found.unverified += 1
        elif sent is None:
            found.add("foreign", row, NOBODY)
        elif sent[1] in {Status.REJECTED, Status.UNSENT}:
            found.add("foreign", row, f"{sent[1]}, and stored all the same")
        elif sent[1] is not Status.CONFLICTED and row != sent[0]:
            found.add("altered", row, difference(row, sent[0]))
        seen.add(key)
    for line, _, required in expected:
        if required:
            found.required += 1
            if line[:3] not in seen:
                found.add("missing", line, _MISSING)
    return found


def difference(stored: Any, sent: Any) -> str:
    """The fields in which two rows differ."""
    parts = [
        f"{name} = {_short(there)}, sent {_short(was)}"
        for name, there, was in zip(sent._fields, stored, sent, strict=True)
        if there != was
    ]
    return ", ".join(parts)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(sent: Samples, stored: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A number for each row: equal where container and time are, and rising with them."""
    ids = np.concatenate((sent["container_id"], stored["container_id"]))
    order = np.argsort(ids)
    container = np.empty(len(ids), np.int64)
    container[order] = np.cumsum(_not_again(ids[order])) - 1
    at = np.concatenate((sent["at"], stored["at"]))
    if not len(at):
        return container, container
    time, span = at - at.min(), int(at.max()) - int(at.min()) + 1
    if (int(container.max()) + 1) * span > _KEYS_AT_MOST:
        _, time = np.unique(time, return_inverse=True)
        span = int(time.max()) + 1
    keys = container * span + time
    return keys[: len(sent)], keys[len(sent) :]


def _among(rising: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each key whether it is one of `rising`."""
    if not len(rising):
        return np.zeros(len(keys), np.bool_)
    found: NDArray[np.bool_] = rising[np.minimum(np.searchsorted(rising, keys), len(rising) - 1)] == keys
    return found


def _not_again(rising: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each of some keys that rise, whether it is the first of its kind."""
    first = np.ones(len(rising), np.bool_)
    first[1:] = np.diff(rising) != 0
    return first


def _rising(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order in which keys rise; equal ones stay as they stand."""
    order = np.argsort(keys)
    if _not_again(keys[order]).all():
        return order
    return np.argsort(keys, kind="stable")  # several times as slow, and needed for equal keys alone
