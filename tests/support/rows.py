"""Rows put straight into a server's tables, for tests of what is read."""

import json
import struct
from collections.abc import Iterable
from typing import Any

import asyncpg

from server.db.storage.times import to_datetime
from server.protocol.identity import container_id, series_name
from server.rows import POSTGRES_EPOCH_US, copy_data
from simulator.samples import Sample
from tests.support.server import docker_id

_CONTAINER = """
    INSERT INTO container (container_id, org, host, docker_id, name, series, image, state, labels, protected, removed_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""


def metrics_out(rows: Iterable[Sample]) -> bytes:
    """Samples as `Storage.copy_metrics` hands them out, packed one by one."""
    packed = [
        struct.pack(
            ">h iq iq if iq iq iq ih", 7, 8, row.container_id, 8, row.at - POSTGRES_EPOCH_US, 4, row.cpu or 0, 8,
            row.mem or 0, 8, row.rx or 0, 8, row.tx or 0, 2,
            sum(1 << bit for bit, value in enumerate(row[2:]) if value is None),
        )
        for row in rows
    ]  # fmt: skip
    return copy_data(packed)


async def execute(dsn: str, statement: str, *arguments: Any) -> None:
    """One statement."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


async def add_containers(dsn: str, *containers: dict[str, Any]) -> list[str]:
    """Containers of `org-a` on `host-1`, numbered, unless a dict says otherwise; returns their ids."""
    values, ids = [], []
    for number, given in enumerate(containers):
        known: dict[str, Any] = {
            "org": "org-a", "host": "host-1", "docker_id": docker_id(number), "name": f"web-{number}", "image": "nginx",
            "state": "running", "labels": {}, "protected": False, "removed_at": None,
        } | given  # fmt: skip
        series = known.get("series", series_name(known["name"], known["labels"]))
        key = container_id(known["org"], known["host"], known["docker_id"])
        removed = known["removed_at"] and to_datetime(known["removed_at"])
        values.append(
            (key, known["org"], known["host"], known["docker_id"], known["name"], series, known["image"], known["state"],
             json.dumps(known["labels"]), known["protected"], removed)
        )  # fmt: skip
        ids.append(str(key))
    connection = await asyncpg.connect(dsn)
    try:
        await connection.executemany(_CONTAINER, values)
    finally:
        await connection.close()
    return ids


async def add_samples(
    dsn: str, container: str, samples: Iterable[tuple[int, float | None, int | None, int | None, int | None]]
) -> None:
    """Samples of a container: (at, cpu, mem, rx, tx), times in Unix microseconds."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.copy_records_to_table(
            "container_metric", records=[(int(container), to_datetime(at), *values) for at, *values in samples]
        )
    finally:
        await connection.close()


async def add_lines(dsn: str, container: str, lines: Iterable[tuple[int, int, str, str]]) -> None:
    """Lines of a container: (at, line, stream, text)."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.copy_records_to_table(
            "container_log",
            records=[
                (int(container), to_datetime(at), number, int(stream == "stderr"), False, False, text)
                for at, number, stream, text in lines
            ],
        )
    finally:
        await connection.close()
