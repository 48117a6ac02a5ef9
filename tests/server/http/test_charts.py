"""Charts over REST: which buckets, which containers, which requests are refused. The values are the storage's to test."""

import random
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from server.db.storage.base import Rolled
from server.db.storage.strategies import STRATEGIES
from server.http.charts import MAX_POINTS, step_seconds
from server.reads import MINUTE_US, ChartBucket
from simulator.samples import Sample
from tests.support.charts import assert_same, compute
from tests.support.rows import add_containers, add_samples, execute
from tests.support.server import RunningServer, now_us, running_server

SECOND = 1_000_000
ARRAYS = ("at", "samples", "cpu_mean", "cpu_max", "mem_mean", "mem_max", "rx_per_second", "tx_per_second")


async def chart(server: RunningServer, container: str, query: str = "") -> dict[str, Any]:
    """A chart."""
    answer = await server.get(f"/api/containers/{container}/metrics?{query}", server.user_token())
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def filled(body: dict[str, Any]) -> dict[int, int]:
    """Samples of each bucket that has some, by its time."""
    return {at: count for at, count in zip(body["at"], body["samples"], strict=True) if count}


@pytest.mark.parametrize(("span", "seconds", "step"), [("15m", 900, 5), ("1h", 3600, 10), ("6h", 21600, 60),
                                                       ("24h", 86400, 240)])  # fmt: skip
async def test_a_range_ends_now(
    server: RunningServer, database: str, span: str, seconds: int, step: int
) -> None:  # fmt: skip
    """Whole buckets at multiples of the step up to now, null but for those that have samples; 0 is not null."""
    (container,) = await add_containers(database, {})
    before = now_us()
    at = (before // SECOND - 2 * step) * SECOND
    await add_samples(database, container, [(at, 0.0, 0, 5, 5), (at + SECOND // 2, 0.0, 0, 5, 5)])

    body = await chart(server, container, f"range={span}")

    assert body["step_seconds"] == step
    assert all(len(body[name]) == seconds // step <= MAX_POINTS for name in ARRAYS)
    assert body["at"] == list(range(body["from"], body["to"], step * SECOND))
    assert body["to"] - step * SECOND <= now_us()
    assert body["to"] >= before
    assert body["to"] % (step * SECOND) == 0
    place = body["at"].index(at // (step * SECOND) * step * SECOND)
    assert {name: body[name].pop(place) for name in ARRAYS[1:]} == {
        "samples": 2, "cpu_mean": 0, "cpu_max": 0, "mem_mean": 0, "mem_max": 0, "rx_per_second": 0, "tx_per_second": 0,
    }  # fmt: skip
    assert set(body["samples"]) == {0}
    assert all(set(body[name]) == {None} for name in ARRAYS[2:])


async def test_from_and_to_are_widened_to_whole_buckets(server: RunningServer, database: str) -> None:
    """In either form of time; nothing given is the last hour."""
    (container,) = await add_containers(database, {})
    start = (now_us() // SECOND - 3601) * SECOND
    at = start + 7 * SECOND
    await add_samples(database, container, [(at, 50.0, 1000, None, None)])

    body = await chart(server, container, f"from={start + 1}&to={start + 1000 * SECOND - 1}")
    text = datetime.fromtimestamp(start // SECOND, UTC).isoformat().replace("+00:00", "Z")
    again = await chart(server, container, f"from={text}&to={start + 999 * SECOND}")

    assert body["step_seconds"] == 5
    assert body["from"] == start // (5 * SECOND) * 5 * SECOND
    assert body["to"] == -(-(start + 1000 * SECOND - 1) // (5 * SECOND)) * 5 * SECOND
    assert (again["from"], again["cpu_mean"][:2]) == (body["from"], body["cpu_mean"][:2])
    assert sum(body["samples"]) == 1
    nothing_given = await chart(server, container)
    assert (nothing_given["to"] - nothing_given["from"], nothing_given["step_seconds"]) == (3600 * SECOND, 10)


async def test_a_chart_survives_a_new_container(server: RunningServer, database: str) -> None:
    """`series` joins those of the same organisation, host and series, gone ones too; `container` is one alone."""
    at = (now_us() // SECOND - 600) * SECOND
    old, new, *others = await add_containers(
        database, {"name": "web", "removed_at": at, "docker_id": "a" * 64}, {"name": "web"},
        {"name": "web", "host": "host-2"}, {"name": "web", "org": "org-b"}, {"name": "web-2"},
    )  # fmt: skip
    for container in (old, new, *others):
        await add_samples(database, container, [(at, 10.0, 1, 1, 1), (at + SECOND, 30.0, 1, 1, 1)])

    merged = await chart(server, new, "range=1h")
    alone = await chart(server, new, "range=1h&merge=container")

    assert (merged["container"], merged["series"], merged["containers"], sum(merged["samples"])) == (new, "web", 2, 4)
    assert (alone["container"], alone["series"], alone["containers"], sum(alone["samples"])) == (new, "web", 1, 2)
    asked_for_old = await chart(server, old, "range=1h")  # the hour may have moved on since
    assert filled(asked_for_old) == filled(merged)


NOW = 1_795_435_200_000_000


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("range=2h", "range"),
        (f"range=1h&from={NOW}", "range"),
        (f"from={NOW}", "to"),
        (f"to={NOW}", "from"),
        ("from=1000000&to=1000000", "from"),
        ("from=2000000&to=1000000", "from"),
        (f"from=0&to={60 * SECOND * 60 * 24 + 1}", "from"),
        ("from=0&to=9999-12-31T23:59:59Z", "to"),
        ("from=yesterday&to=0", "from"),
        ("from=2026-11-23T12:00:00&to=1", "from"),
        ("from=-1&to=1", "from"),
        ("merge=all", "merge"),
    ],
)
async def test_wrong_ranges_are_named(server: RunningServer, query: str, field: str) -> None:
    """Each is refused with its name before anything is read."""
    answer = await server.get(f"/api/containers/1/metrics?{query}", server.user_token())

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field


async def test_others_have_no_chart(server: RunningServer, database: str) -> None:
    """A container of another organisation is as one that does not exist."""
    (container,) = await add_containers(database, {})
    path = f"/api/containers/{container}/metrics"

    assert (await server.get(path, server.user_token("org-b"))).status_code == 404
    assert (await server.get(path)).status_code == 401


async def test_the_retention_bounds_what_is_asked_for(database: str) -> None:
    """A longer retention lets longer charts through, still of few points."""
    async with running_server(database, retention_seconds=30 * 86_400) as server:
        (container,) = await add_containers(database, {})
        end = now_us()
        body = await chart(server, container, f"from={end - 30 * 86_400 * SECOND}&to={end}")

    assert body["step_seconds"] == 7200
    assert len(body["at"]) <= MAX_POINTS + 1


@pytest.mark.parametrize("storage", STRATEGIES)
async def test_long_ranges_read_the_rollup_and_tell_the_truth(empty_database: str, storage: str) -> None:
    """6 h and 24 h of a day of samples are exact to the newest, and stay so without the old samples; 1 h does not."""
    settings: dict[str, Any] = {
        "storage": storage,
        "retention_seconds": 25 * 3600,
        "offline_after_seconds": 0.2,
        "rollup_grace_seconds": 3600,  # no round of the server may take an unmarked minute for done
    }
    chance, start = random.Random(7), now_us() - 86_400 * SECOND
    rows: list[tuple[int, float | None, int, int, int]] = []
    rx = 0
    while (at := start + len(rows) * 60 * SECOND + chance.randrange(60 * SECOND)) < now_us():
        rx = 0 if chance.random() < 0.01 else rx + chance.randrange(10**6)
        rows.append((at, None if len(rows) % 50 == 9 else float(len(rows) % 97), chance.randrange(2**34), rx, 2 * rx))
    async with running_server(empty_database, **settings) as server:
        (container,) = await add_containers(empty_database, {})
        service = server.service
        connection = await asyncpg.connect(empty_database)
        await service.storage.make_room(connection, start, now_us())
        await add_samples(empty_database, container, rows)
        rolled = Rolled(start // MINUTE_US * MINUTE_US, now_us() // MINUTE_US * MINUTE_US - MINUTE_US)
        assert await service.storage.roll_up(connection, [int(container)], *rolled) > 1000
        service.rollup.rolled = rolled
        await connection.close()

        known = [Sample(int(container), *row) for row in rows]
        charts = {}
        for span in ("6h", "24h", "1h"):
            body = charts[span] = await chart(server, container, f"range={span}")
            truth = compute(known, body["from"], body["to"], body["step_seconds"] * SECOND)
            assert_same(buckets(body), truth)
        await execute(
            empty_database, "DELETE FROM container_metric WHERE timestamp < to_timestamp($1::bigint / 1e6)",
            rolled.until,
        )  # fmt: skip

        for span in ("6h", "24h"):
            body = await chart(server, container, f"range={span}")
            assert (
                buckets(body)[:-2]
                == [b for b in buckets(charts[span]) if b.at >= body["from"]][: len(buckets(body)) - 2]
            )
        assert len(buckets(await chart(server, container, "range=1h"))) <= 3


def buckets(body: dict[str, Any]) -> list[ChartBucket]:
    """Those of a chart that have samples."""
    found = [ChartBucket(*values) for values in zip(*(body[name] for name in ARRAYS), strict=True)]
    return [bucket for bucket in found if bucket.samples]


async def test_what_is_older_than_the_samples_has_whole_minutes(database: str) -> None:
    """With a longer retention of the rollup older charts are to be had, in steps of a minute at least."""
    settings: dict[str, Any] = {
        "retention_seconds": 3600,
        "rollup_retention_seconds": 7200,
        "prune_interval_seconds": 60,
    }
    async with running_server(database, **settings) as server:
        (container,) = await add_containers(database, {})
        now = now_us()
        old = await chart(server, container, f"from={now - 7000 * SECOND}&to={now - 6900 * SECOND}")
        new = await chart(server, container, f"from={now - 200 * SECOND}&to={now - 100 * SECOND}")
        answer = await server.get(
            f"/api/containers/{container}/metrics?from={now - 7201 * SECOND}&to={now}", server.user_token()
        )

    assert (old["step_seconds"], new["step_seconds"]) == (60, 1)
    assert answer.status_code == 422


@pytest.mark.parametrize("days", [1e-5, 0.3, 1, 7, 90, 361, 1000, 100_000])
def test_every_span_has_a_step(days: float) -> None:
    """At most the points there may be, whole seconds, and no coarser than needed for the next nice step."""
    span = int(days * 86_400 * SECOND)
    step = step_seconds(span)

    assert span / (step * SECOND) <= MAX_POINTS
    assert step == 1 or span / (step * SECOND) > MAX_POINTS / 3
