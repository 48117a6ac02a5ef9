"""Rows packed into Postgres' binary COPY format as they arrive: one bytes object a row, no tuple.

Layout of a row (PostgreSQL documentation, COPY, "Binary Format"): an int16 count of fields, then per field an int32 length
and the value in network byte order, -1 for null. The key columns come first and are never null, so every row of a table
starts with the same bytes up to its key, ids and times are positive, and plain byte order is key order.
"""

import struct
from collections.abc import Iterable
from typing import Final

POSTGRES_EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01 UTC in Unix microseconds: timestamptz counts from there."""

COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
COPY_TRAILER: Final = struct.pack(">h", -1)

METRIC_COLUMNS: Final = (
    "container_id",
    "timestamp",
    "cpu_percent",
    "memory_bytes",
    "network_rx_bytes",
    "network_tx_bytes",
)
LOG_COLUMNS: Final = ("container_id", "timestamp", "line", "stream", "partial", "truncated", "text")

STREAMS: Final = ("stdout", "stderr")
"""A log line's stream as stored: its index here."""
_STREAM_NUMBER = {name: number for number, name in enumerate(STREAMS)}

LINE_OVERHEAD_BYTES: Final = 150
"""What a log line costs beside its text, on the wire to a browser and in memory, about."""

ROW_OVERHEAD_BYTES: Final = 41
"""A bytes object and its place in a list, beside its content: what a row costs the memory budget."""

_KEY = struct.Struct(">h iq iq")
_LOG_HEAD = struct.Struct(">h iq iq ii ih i? i? i")


_HEAD_BYTES, _TIME_BYTES = 18, 8
_metric_head = struct.Struct(">h iq i").pack
_time = struct.Struct(">q").pack


def _metric_packer(mask: int) -> struct.Struct:
    # What is the same for many rows goes in as bytes: copying them is a third cheaper than packing numbers again.
    parts = [f">{_HEAD_BYTES}s{_TIME_BYTES}s"]
    for bit, code in enumerate("fqqq"):
        parts.append("4s" if mask & (1 << bit) else f"4s{code}")
    return struct.Struct("".join(parts))


_METRIC = [_metric_packer(mask) for mask in range(16)]
_METRIC_FULL = _METRIC[0].pack
METRIC_ROW_BYTES: Final = _METRIC[0].size
"""A packed sample without nulls."""

_NULL, _FOUR, _EIGHT = (struct.pack(">i", length) for length in (-1, 4, 8))


def metric_head(container_id: int) -> bytes:
    """What every sample of a container begins with, for `pack_metric`."""
    return _metric_head(6, 8, container_id, 8)


def pack_time(at: int) -> bytes:
    """A time as stored, for `pack_metric`; `at` in Unix microseconds."""
    return _time(at - POSTGRES_EPOCH_US)


def pack_metric(head: bytes, time: bytes, cpu: float | None, mem: int | None, rx: int | None, tx: int | None) -> bytes:
    """A sample; `head` from `metric_head`, `time` from `pack_time`."""
    try:
        return _METRIC_FULL(head, time, _FOUR, cpu, _EIGHT, mem, _EIGHT, rx, _EIGHT, tx)
    except struct.error:  # one of them is null, which costs nothing where none is
        pass
    mask = 0
    values: list[bytes | float] = []
    for bit, (length, value) in enumerate(((_FOUR, cpu), (_EIGHT, mem), (_EIGHT, rx), (_EIGHT, tx))):
        if value is None:
            mask |= 1 << bit
            values.append(_NULL)
        else:
            values += (length, value)
    return _METRIC[mask].pack(head, time, *values)


def pack_log(container_id: int, at: int, line: int, stream: str, text: bytes, partial: bool, truncated: bool) -> bytes:
    """A log line; `at` in Unix microseconds, `text` as UTF-8 without U+0000."""
    head = _LOG_HEAD.pack(
        7, 8, container_id, 8, at - POSTGRES_EPOCH_US, 4, line, 2, _STREAM_NUMBER[stream], 1, partial, 1, truncated,
        len(text),
    )  # fmt: skip
    return head + text


def row_key(row: bytes) -> tuple[int, int]:
    """Container id and time (Unix microseconds) of a packed row."""
    _, _, container_id, _, timestamp = _KEY.unpack_from(row)
    return container_id, timestamp + POSTGRES_EPOCH_US


def log_line_number(row: bytes) -> int:
    """The `line` of a packed log row."""
    return int.from_bytes(row[_KEY.size + 4 : _KEY.size + 8], "big")


def copy_data(rows: Iterable[bytes]) -> bytes:
    """A whole COPY stream of packed rows."""
    return b"".join((COPY_HEADER, *rows, COPY_TRAILER))
