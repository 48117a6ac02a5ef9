"""Where the tests get their Postgres from, and a fresh database for each test that wants one."""

import contextlib
import gc
import os
import secrets
import warnings
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from server.db import migrate
from server.db.embedded import temporary
from server.db.storage.plain import PlainStorage

DSN_VARIABLE = "SEATRIAL_TEST_DATABASE_URL"
DEFAULT_IMAGE = "postgres:15-alpine"

_CONNECT_TIMEOUT_SECONDS = 20.0
_MAX_CONNECTIONS = "200"


class PostgresUnavailableError(Exception):
    """The Postgres that was asked for cannot be had. The tests fail then: a skipped test proves nothing."""


@contextlib.contextmanager
def cluster(choice: str, image: str) -> Iterator[str]:
    """The DSN of a running cluster, owned for the time of the context unless it came from outside.

    Args:
        choice: `auto` (the DSN in `SEATRIAL_TEST_DATABASE_URL`, else embedded), `embedded`, `container`, or a DSN.
        image: the image for `container`.

    Raises:
        PostgresUnavailableError: the choice is unknown, or no Docker engine answers.
        EmbeddedPostgresError: the embedded Postgres does not start.
    """
    if choice == "auto":
        choice = os.environ.get(DSN_VARIABLE) or "embedded"
    if choice == "embedded":
        with temporary(settings={"max_connections": _MAX_CONNECTIONS}) as postgres:
            yield postgres.dsn
    elif choice == "container":
        with _container(image) as dsn:
            yield dsn
    elif choice.startswith(("postgresql://", "postgres://")):
        yield choice
    else:
        raise PostgresUnavailableError(
            f"--postgres={choice!r} (or {DSN_VARIABLE}) is unknown; "
            "expected auto, embedded, container or postgresql://..."
        )


async def create_database(dsn: str, template: str | None = None) -> str:
    """Create a database on a cluster and return its DSN; needs the right CREATEDB.

    Args:
        dsn: of the cluster.
        template: DSN of a database of it that nobody is connected to, to be copied; None: the new one is empty.
    """
    name = f"test_{secrets.token_hex(6)}"
    copied = f' TEMPLATE "{_name(template)}"' if template else ""
    await _execute(dsn, f'CREATE DATABASE "{name}"{copied}')
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


async def create_migrated(dsn: str) -> str:
    """Create a database with every table, of strategy `plain`, and return its DSN: migrations take longer than a copy."""
    migrated = await create_database(dsn)
    connection = await asyncpg.connect(migrated, timeout=_CONNECT_TIMEOUT_SECONDS)
    try:
        await migrate.apply(connection, PlainStorage())
    finally:
        await connection.close()
    return migrated


async def drop_database(dsn: str, database_dsn: str) -> None:
    """Drop what `create_database` made, with whatever still holds a connection to it."""
    await _execute(dsn, f'DROP DATABASE "{_name(database_dsn)}" WITH (FORCE)')


def _name(dsn: str) -> str:
    return urlsplit(dsn).path.removeprefix("/")


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=_CONNECT_TIMEOUT_SECONDS)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextlib.contextmanager
def _container(image: str) -> Iterator[str]:
    """A Postgres in a container."""
    from testcontainers.community.postgres import PostgresContainer

    _require_engine()
    container = PostgresContainer(image, username="seatrial", password=secrets.token_urlsafe(16), driver=None)
    with container.with_command(f"postgres -c max_connections={_MAX_CONNECTIONS}"):
        yield container.get_connection_url()


def _require_engine() -> None:
    """Fail in words when no Docker engine answers; a client program alone proves nothing."""
    import docker  # type: ignore[import-untyped]

    reason = ""
    with warnings.catch_warnings():
        # The client leaves its socket to the garbage collector when nobody answers: collect it here, unheard.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with contextlib.closing(docker.from_env()) as engine:
                engine.ping()
        except docker.errors.DockerException as error:
            reason = str(error)
        gc.collect()
    if reason:
        raise PostgresUnavailableError(
            f"--postgres=container needs a Docker engine, and none answers: {reason}. "
            "Start one, or take --postgres=embedded."
        )
