"""Packed rows: what Postgres reads back is what was packed, and byte order is key order."""

import random
import struct
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from itertools import pairwise, product

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.db.storage.base import LogRow
from server.db.storage.plain import PlainStorage
from server.protocol.canonical import clean_log_text, float32
from server.rows import (
    LOG_COLUMNS,
    METRIC_COLUMNS,
    METRIC_ROW_BYTES,
    POSTGRES_EPOCH_US,
    STREAMS,
    copy_data,
    log_line_number,
    metric_head,
    pack_log,
    pack_metric,
    pack_time,
    row_key,
)
from simulator.samples import Sample
from tests.support.lanes import logs, metrics

LAST_US = 2**62 // 1000
"""A time that Postgres and Python both hold: the year 2116."""
MAX = 2**63 - 1

ids = st.integers(0, MAX)
times = st.integers(POSTGRES_EPOCH_US, LAST_US)
int64 = st.none() | st.integers(0, MAX)
cpus = st.none() | st.floats(0, 1_000_000)
samples = st.builds(Sample, ids, times, cpus, int64, int64, int64)
texts = st.text(max_size=50)
lines = st.builds(
    LogRow, ids, times, st.integers(0, 2**31 - 1), st.sampled_from(STREAMS), texts, st.booleans(), st.booleans()
)


def packed(row: Sample | LogRow) -> bytes:
    """A row as the server packs it."""
    if isinstance(row, Sample):
        return pack_metric(metric_head(row.container_id), pack_time(row.at), *row[2:])
    text, _ = clean_log_text(row.text, 2**20)
    return pack_log(row.container_id, row.at, row.line, row.stream, text, row.partial, row.truncated)


def fields(row: bytes) -> Iterator[bytes | None]:
    """The fields of a packed row, read by the letter of Postgres' documentation."""
    stream = BytesIO(row)
    (count,) = struct.unpack(">h", stream.read(2))
    for _ in range(count):
        (length,) = struct.unpack(">i", stream.read(4))
        yield None if length == -1 else stream.read(length)
    assert stream.read() == b""


@pytest.fixture
async def tables(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with the tables of samples and lines."""
    connection = await asyncpg.connect(database)
    try:
        await PlainStorage().create(connection)
        yield connection
    finally:
        await connection.close()


class TestPostgres:
    """Against the real COPY."""

    async def test_every_pattern_of_nulls_with_extreme_values(self, tables: asyncpg.Connection) -> None:
        """All 16 patterns of nulls, each with least, greatest and usual values, come back as they were packed."""
        extremes = [(0.0, 0), (1_000_000.0, MAX), (float32(0.1), 2**31), (float32(1e-40), 1)]
        times = [POSTGRES_EPOCH_US, 1_795_426_800_123_456, LAST_US - 1]
        masks = product([False, True], repeat=4)
        expected = [
            Sample(number, at, None if cpu else share, *(None if null else count for null in counts))
            for number, ((cpu, *counts), (share, count), at) in enumerate(product(masks, extremes, times))
        ]
        expected.append(Sample(MAX, POSTGRES_EPOCH_US + 1, None, None, None, None))
        await tables.copy_to_table(
            "container_metric",
            source=BytesIO(copy_data(map(packed, expected))),
            columns=METRIC_COLUMNS,
            format="binary",
        )

        assert await metrics(tables) == expected

    async def test_lines_of_every_kind(self, tables: asyncpg.Connection) -> None:
        """Streams, flags, ordinals and text of one to four bytes a character come back as they were packed."""
        texts = [
            "",
            "a",
            "é€😀",
            "\x01\x1b[2J\t\r\n\x7f",
            "\ufffd\ufffe\uffff",
            "x" * 262_144,
            "'; DROP TABLE --",
            "\\N",
        ]
        expected = [
            LogRow(number, LAST_US - 1, line, stream, text, partial, truncated)
            for number, (line, stream, text, partial, truncated) in enumerate(
                product([0, 2**31 - 1], STREAMS, texts, [False, True], [False, True])
            )
        ]
        await tables.copy_to_table(
            "container_log", source=BytesIO(copy_data(map(packed, expected))), columns=LOG_COLUMNS, format="binary"
        )

        assert await logs(tables) == expected

    async def test_random_rows(self, tables: asyncpg.Connection) -> None:
        """Two thousand rows of random values, sorted as bytes, are stored in key order and read back equal."""
        chance = random.Random(7)

        def maybe() -> int | None:
            return None if chance.random() < 0.2 else chance.getrandbits(chance.randint(0, 63))

        expected = sorted(
            Sample(
                chance.getrandbits(63), chance.randrange(POSTGRES_EPOCH_US, LAST_US), float32(chance.uniform(0, 1e6)),
                maybe(), maybe(), maybe(),
            )
            for _ in range(2000)
        )  # fmt: skip
        data = copy_data(sorted(map(packed, expected)))
        await tables.copy_to_table("container_metric", source=BytesIO(data), columns=METRIC_COLUMNS, format="binary")

        assert await metrics(tables) == expected

    async def test_an_empty_copy_is_one(self, tables: asyncpg.Connection) -> None:
        """A stream without rows is accepted."""
        await tables.copy_to_table(
            "container_metric", source=BytesIO(copy_data([])), columns=METRIC_COLUMNS, format="binary"
        )

        assert await metrics(tables) == []


class TestLayout:
    """By the letter of the format."""

    @given(samples)
    def test_a_sample(self, row: Sample) -> None:
        """Every field has its width and value, null its -1."""
        container_id, timestamp, cpu, *numbers = fields(packed(row))

        assert container_id == row.container_id.to_bytes(8, "big")
        assert timestamp == (row.at - POSTGRES_EPOCH_US).to_bytes(8, "big")
        assert cpu == (None if row.cpu is None else struct.pack(">f", row.cpu))
        assert numbers == [None if value is None else value.to_bytes(8, "big") for value in (row.mem, row.rx, row.tx)]
        assert row_key(packed(row)) == (row.container_id, row.at)

    @given(lines)
    def test_a_line(self, row: LogRow) -> None:
        """Every field has its width and value, and the key can be read back."""
        _, _, line, stream, partial, truncated, text = fields(packed(row))

        assert line == row.line.to_bytes(4, "big")
        assert stream == STREAMS.index(row.stream).to_bytes(2, "big")
        assert (partial, truncated) == (bytes([row.partial]), bytes([row.truncated]))
        assert text == row.text.replace("\x00", "\ufffd").encode()
        assert row_key(packed(row)) == (row.container_id, row.at)
        assert log_line_number(packed(row)) == row.line


class TestOrder:
    """Sorting bytes is sorting by key."""

    @given(st.lists(samples, min_size=2, max_size=8))
    def test_of_samples(self, rows: list[Sample]) -> None:
        """Packed samples sort by container, then time, whatever their values and nulls."""
        keys = [row_key(row) for row in sorted(map(packed, rows))]

        assert keys == sorted(keys)

    @given(st.lists(lines, min_size=2, max_size=8), st.booleans())
    def test_of_lines(self, rows: list[LogRow], same: bool) -> None:
        """Packed lines sort by container, then time, then ordinal, whatever their text."""
        if same:
            rows = [row._replace(container_id=rows[0].container_id, at=rows[0].at) for row in rows]
        keys = [(*row_key(row), log_line_number(row)) for row in sorted(map(packed, rows))]

        assert all(one <= other for one, other in pairwise(keys))


def test_a_samples_size_is_what_the_budget_counts() -> None:
    """A sample without nulls is as long as the constant by which a batch's memory is counted, and none is longer."""
    full = pack_metric(metric_head(1), pack_time(POSTGRES_EPOCH_US), 1.5, 2, 3, 4)
    empty = pack_metric(metric_head(1), pack_time(POSTGRES_EPOCH_US), None, None, None, None)

    assert len(full) == METRIC_ROW_BYTES > len(empty)
