"""Rows of Postgres' binary COPY: samples to and from numpy arrays, and log lines from it.

A row without nulls has a fixed width, and so have all rows with the same nulls: numpy writes each kind as one array of
records. Field by field this is the layout of `server.rows`.
"""

import struct
from typing import Final

import numpy as np

from server.db.storage.base import METRICS_OUT_COLUMNS, LogRow
from server.rows import COPY_HEADER, COPY_TRAILER, LOG_COLUMNS, METRIC_COLUMNS, POSTGRES_EPOCH_US, STREAMS
from simulator.samples import SAMPLE, VALUES, Samples

_TYPES: Final = {
    "container_id": ">i8",
    "at": ">i8",
    "cpu": ">f4",
    "mem": ">i8",
    "rx": ">i8",
    "tx": ">i8",
    "nulls": ">i2",
}


class CopyError(ValueError):
    """What came is not the COPY that was asked for."""


def _layout(names: tuple[str, ...], null: frozenset[str] = frozenset()) -> np.dtype[np.void]:
    """A row of these fields, each behind its length."""
    fields = [("fields", ">i2")]
    for name in names:
        fields.append((f"{name}_length", ">i4"))
        if name not in null:
            fields.append((name, _TYPES[name]))
    return np.dtype(fields)


_KEY: Final = ("container_id", "at")
_IN: Final = tuple(
    _layout((*_KEY, *VALUES), frozenset(name for bit, name in enumerate(VALUES) if mask >> bit & 1))
    for mask in range(1 << len(VALUES))
)
"""By `nulls`."""
_LINE: Final = struct.Struct(">h iq iq ii ih i? i? i")
"""A log line but for its text."""
_OUT: Final = _layout((*_KEY, *VALUES, "nulls"))


def packed(samples: Samples) -> bytes:
    """A whole COPY stream of samples; those with nulls come after the others."""
    parts = [COPY_HEADER]
    nulls = samples["nulls"]
    for mask in np.flatnonzero(np.bincount(nulls, minlength=1)):
        some = samples[nulls == mask]
        layout = _IN[mask]
        rows = np.empty(len(some), layout)
        rows["fields"] = len(METRIC_COLUMNS)
        for name in (*_KEY, *VALUES):
            if name in (layout.names or ()):
                rows[f"{name}_length"] = layout[name].itemsize
                rows[name] = some[name] - POSTGRES_EPOCH_US if name == "at" else some[name]
            else:
                rows[f"{name}_length"] = -1
        parts.append(rows.tobytes())
    parts.append(COPY_TRAILER)
    return b"".join(parts)


def unpacked_lines(data: bytes | bytearray) -> list[LogRow]:
    """The log lines of a whole COPY stream as `Storage.copy_logs` hands it out.

    Raises:
        CopyError: it is none.
    """
    rows, place, end = [], len(COPY_HEADER), len(data) - len(COPY_TRAILER)
    try:
        while place < end:
            fields, _, key, _, at, _, line, _, stream, _, partial, _, truncated, length = _LINE.unpack_from(data, place)
            if fields != len(LOG_COLUMNS):
                raise CopyError(f"a row of {fields} fields: expected {len(LOG_COLUMNS)}")
            place += _LINE.size
            text = data[place : place + length].decode()
            place += length
            rows.append(LogRow(key, at + POSTGRES_EPOCH_US, line, STREAMS[stream], text, partial, truncated))
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise CopyError(f"byte {place} of {len(data)}: {error}") from None
    if place != end or data[: len(COPY_HEADER)] != COPY_HEADER or data[end:] != COPY_TRAILER:
        raise CopyError(f"{len(data)} bytes: expected a binary COPY")
    return rows


def unpacked(data: bytes | bytearray) -> Samples:
    """The samples of a whole COPY stream as `Storage.copy_metrics` hands it out.

    Raises:
        CopyError: it is none.
    """
    body = len(data) - len(COPY_HEADER) - len(COPY_TRAILER)
    if body < 0 or body % _OUT.itemsize or data[: len(COPY_HEADER)] != COPY_HEADER or data[-2:] != COPY_TRAILER:
        raise CopyError(f"{len(data)} bytes: expected a binary COPY of rows of {_OUT.itemsize} bytes")
    rows = np.frombuffer(data, _OUT, body // _OUT.itemsize, len(COPY_HEADER))
    if len(rows) and not (rows["fields"] == len(METRICS_OUT_COLUMNS)).all():
        raise CopyError(f"a row of another shape: expected {len(METRICS_OUT_COLUMNS)} fields")
    samples = np.empty(len(rows), SAMPLE)
    for name in (*_KEY, *VALUES, "nulls"):
        samples[name] = rows[name]
    samples["at"] += POSTGRES_EPOCH_US
    return samples
