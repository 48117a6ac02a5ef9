"""The statements that write hosts and containers, for whoever knows of some: the directory, or a history made by hand."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

UPSERT_HOSTS: Final = """
    INSERT INTO host AS h (org, host, machine_id, hostname, agent_version, cores, epoch, acked_seq, last_seen)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::uuid[], $8::bigint[],
                         $9::timestamptz[])
    ON CONFLICT (org, host) DO UPDATE SET
        machine_id = excluded.machine_id, hostname = excluded.hostname, agent_version = excluded.agent_version,
        cores = excluded.cores, epoch = excluded.epoch, last_seen = excluded.last_seen,
        acked_seq = CASE WHEN h.epoch = excluded.epoch THEN greatest(h.acked_seq, excluded.acked_seq)
                         ELSE excluded.acked_seq END
    RETURNING org
"""
"""Takes the columns of `HostRow`; returns those written."""

UPSERT_CONTAINERS: Final = """
    INSERT INTO container AS c (container_id, org, host, docker_id, name, series, image, state, labels,
                                memory_limit_bytes, protected, removed_at)
    SELECT id, o, h, d, n, s, i, st, l::jsonb, m, p, r
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                $9::text[], $10::bigint[], $11::bool[], $12::timestamptz[]) AS u(id, o, h, d, n, s, i, st, l, m, p, r)
    ON CONFLICT (container_id) DO UPDATE SET
        name = excluded.name, series = excluded.series, image = excluded.image, state = excluded.state,
        labels = excluded.labels, memory_limit_bytes = excluded.memory_limit_bytes, protected = excluded.protected,
        removed_at = excluded.removed_at
    WHERE (c.org, c.host, c.docker_id) = (excluded.org, excluded.host, excluded.docker_id)
    RETURNING container_id
"""
"""Takes the columns of `ContainerRow`; returns those written: the others' key is another container's."""


class HostRow(NamedTuple):
    """A host as `UPSERT_HOSTS` takes it."""

    org: str
    host: str
    machine_id: str
    hostname: str
    agent_version: str
    cores: int
    epoch: str
    acked_seq: int
    last_seen: datetime


class ContainerRow(NamedTuple):
    """A container as `UPSERT_CONTAINERS` takes it."""

    container_id: int
    org: str
    host: str
    docker_id: str
    name: str
    series: str
    image: str
    state: str
    labels: str
    """JSON."""
    memory_limit_bytes: int | None
    protected: bool
    removed_at: datetime | None


def columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows as the arrays that the statements take; there must be one at least."""
    return [list(column) for column in zip(*rows, strict=True)]
