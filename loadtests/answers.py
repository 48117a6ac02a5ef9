"""What must hold of an answer of the API, whatever the data. Pure: no request, no clock.

Each check returns what is wrong as one sentence; empty: nothing.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec
from msgspec import Struct

MAX_POINTS = 400
CHART_VALUES = ("cpu_mean", "cpu_max", "mem_mean", "mem_max", "rx_per_second", "tx_per_second")


class Chart(Struct):
    """Answer to `GET /api/containers/{id}/metrics`."""

    step_seconds: float
    at: list[int]
    cpu_mean: list[float | None]
    cpu_max: list[float | None]
    mem_mean: list[float | None]
    mem_max: list[float | None]
    rx_per_second: list[float | None]
    tx_per_second: list[float | None]
    samples: list[int]

    def wrong_shape(self) -> str:
        """Arrays of different lengths, too many points, buckets out of order, values without samples."""
        points = len(self.at)
        if points > MAX_POINTS:
            return f"{points} points: expected at most {MAX_POINTS}"
        for name in (*CHART_VALUES, "samples"):
            if len(getattr(self, name)) != points:
                return f"{name} has {len(getattr(self, name))} values: expected {points}, as at has"
        if any(later <= earlier for earlier, later in pairwise(self.at)):
            return "at: expected rising times"
        for i, samples in enumerate(self.samples):
            if not samples and any(getattr(self, name)[i] is not None for name in CHART_VALUES):
                return f"point {i} has values and samples = 0"
        return ""

    @property
    def empty(self) -> bool:
        """Whether it has no value at all."""
        return all(value is None for value in self.mem_mean)


class AuditEntry(Struct):
    """An entry of the audit log."""

    id: str
    at: int
    actor: str
    role: str
    action: str
    target: str
    reason: str
    result: str
    detail: str = ""
    action_id: str | None = None


class AuditPage(Struct):
    """Answer to `GET /api/audit`."""

    entries: list[AuditEntry]
    next: str | None = None


def audit_disorder(ids: Sequence[int]) -> str:
    """Entries must be newest first, over all pages, and none may come twice."""
    for earlier, later in pairwise(ids):
        if later >= earlier:
            return f"entry {later} after entry {earlier}: expected falling ids"
    return ""


def csv_ids(body: bytes) -> list[int]:
    """The ids of an audit log as CSV.

    Raises:
        ValueError: it is no such file.
    """
    rows = csv.DictReader(io.StringIO(body.decode(), newline=""), strict=True)
    found = []
    try:
        if "id" not in (rows.fieldnames or ()):
            raise ValueError("line 1: expected names of columns, among them id")
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"line {rows.line_num}: expected {len(rows.fieldnames or ())} fields")
            found.append(int(row["id"]))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    return found


class DownloadedLine(Struct):
    """A line of a log as JSON."""

    at: int
    line: int


def json_lines(body: bytes) -> Iterator[DownloadedLine]:
    """The lines of a download as JSON, one object a line.

    Raises:
        ValueError: it is something else.
    """
    decode = msgspec.json.Decoder(DownloadedLine).decode
    for number, text in enumerate(body.removesuffix(b"\n").split(b"\n") if body else (), 1):
        try:
            yield decode(text)
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number}: {error}") from None


def log_disorder(lines: Sequence[DownloadedLine], since_us: int, until_us: int) -> str:
    """Lines must rise strictly by (at, line) and lie in the time that was asked for."""
    for earlier, later in pairwise(lines):
        if (later.at, later.line) <= (earlier.at, earlier.line):
            return f"at {later.at} line {later.line} after at {earlier.at} line {earlier.line}"
    for line in (*lines[:1], *lines[-1:]):
        if not since_us <= line.at < until_us:
            return f"at {line.at}: expected {since_us} to {until_us}"
    return ""
