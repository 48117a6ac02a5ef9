"""The raw limit of COPY, on what is stored."""

import asyncpg

from loadtests.bench import raw_copy
from server.db.storage.plain import PlainStorage
from server.db.storage.times import to_datetime

T0 = 1_760_000_000_000_000


async def test_every_row_is_copied_once_more(database: str) -> None:
    """As many rows as are stored, of both tables, or as many as were asked for; what was made for it is gone."""
    reading, writing = [await asyncpg.connect(database) for _ in range(2)]
    storage = PlainStorage()
    await storage.create(reading)
    await reading.executemany(
        "INSERT INTO container_metric VALUES ($1, $2, 1.5, NULL, 3, 4)",
        [(i % 7, to_datetime(T0 + i)) for i in range(250)],
    )
    await reading.executemany(
        "INSERT INTO container_log VALUES ($1, $2, 0, 1, false, true, $3)",
        [(i % 7, to_datetime(T0 + i), "ü" * i) for i in range(50)],
    )

    whole = await raw_copy.measure(reading, writing, storage, most_rows=1_000)
    part = await raw_copy.measure(reading, writing, storage, most_rows=40)
    left = await reading.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE 'raw\\_%'")
    await reading.close()
    await writing.close()

    assert (whole.rows, part.rows, left) == (300, 80, 0)
    assert whole.rows_per_second > 0
