"""What reads must hold beside what the routes show: bounds, and how a failing database is told."""

import asyncpg
import pytest

from server.db import history
from server.db.history import History
from server.db.pool import Database, ReadPool
from server.db.storage.plain import PlainStorage
from server.errors import DatabaseDownError
from server.reads import ContainerFilter, LogFilter
from tests.support.rows import add_containers, add_samples, execute

SECOND = 1_000_000
T0 = 1_800_000_000 * SECOND


async def test_a_series_without_end_is_charted_by_its_newest(
    database: str, pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a container that is re-created over and over the chart joins the newest, so many and no more."""
    monkeypatch.setattr(history, "MAX_CHART_CONTAINERS", 3)
    numbers = await add_containers(database, *({"name": "web"} for _ in range(10)))
    for age, number in enumerate(numbers):
        await add_samples(database, number, [(T0 + age * SECOND, float(age), None, None, None)])
        await execute(
            database, "UPDATE container SET first_seen = now() - make_interval(hours => $2) WHERE container_id = $1",
            int(number), age,
        )  # fmt: skip

    chart = await History(ReadPool(pool, at_once=4), PlainStorage()).chart(
        "org-a", int(numbers[9]), since=T0, until=T0 + 60 * SECOND, step_us=60 * SECOND, series=True
    )

    assert chart is not None
    assert (chart.containers, [(b.samples, b.cpu_max) for b in chart.buckets]) == (3, [(3, 2.0)])


@pytest.mark.parametrize(
    "statement", ["SELECT pg_terminate_backend(pg_backend_pid())", "SELECT pg_cancel_backend(pg_backend_pid())"]
)
async def test_a_database_that_gives_up_is_down(
    pool: Database, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """A statement that the database ends for its own reasons is no error of the server: whoever asked may ask again."""
    storage = PlainStorage()

    async def give_up(connection: asyncpg.Connection, *_args: object) -> int:
        await connection.execute(statement)
        await connection.execute("SELECT pg_sleep(20)")
        return 0

    monkeypatch.setattr(storage, "page_logs", give_up)
    with pytest.raises(DatabaseDownError):
        await History(ReadPool(pool, at_once=4), storage).log_page("org-a", 1, (0, -1), T0, LogFilter())


async def test_filters_use_the_index_of_their_host(pool: Database, connection: asyncpg.Connection) -> None:
    """Containers of one host are found without looking at those of all others."""
    await connection.execute(
        "INSERT INTO container (container_id, org, host, docker_id, name, series, image, state, labels, protected)"
        " SELECT i, 'o', 'host-' || i % 500, repeat('a', 64), 'n', 's-' || i, 'i', 'running', '{}', false"
        " FROM generate_series(1, 20000) i"
    )
    await connection.execute("ANALYZE container")
    conditions, values = history._conditions("o", ContainerFilter(host="host-7"))
    plan = await connection.fetch(
        f"EXPLAIN {history._CONTAINER} WHERE {' AND '.join(conditions)} ORDER BY c.host, c.series, c.container_id LIMIT 10",
        *values,
    )

    text = "\n".join(row[0] for row in plan)
    assert "container_by_series" in text or "container_by_host" in text, text
    assert "Seq Scan on container c" not in text
