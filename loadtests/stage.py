"""What a run stands on: a database of its own, and the server under test. Started in order, stopped in the other one."""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from loadtests.children import Child, python
from loadtests.fingerprint import POSTGRES_SETTINGS, Postgres
from loadtests.scrape import get
from server.db.embedded import EmbeddedPostgres, EmbeddedPostgresError, free_port, temporary
from simulator.scenario import Scenario

READY_TIMEOUT_SECONDS = 60.0
ORG = "demo"
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class StageError(Exception):
    """The environment could not be set up: exit 3."""


class Site(Protocol):
    """Where a server is, and how its fleet and its users come in."""

    @property
    def http(self) -> str:
        """Its base URL."""

    @property
    def ws(self) -> str:
        """The base URL of its sockets."""

    @property
    def org(self) -> str:
        """The organisation of the run."""

    @property
    def credentials(self) -> Mapping[str, str]:
        """The variables with which the fleet and the users sign their tokens."""


class RunDatabase(NamedTuple):
    """The database of a run."""

    dsn: str
    postgres: EmbeddedPostgres | None
    """Whose it is; None: it is on a server that is not ours to break."""


@asynccontextmanager
async def database(
    dsn: str | None, log_file: Path, *, settings: Mapping[str, str] = NO_SETTINGS
) -> AsyncIterator[RunDatabase]:
    """An empty database for this run alone, gone afterwards: of a private Postgres, or on the server of `dsn`.

    Args:
        dsn: of a Postgres that is there already; None: a private one.
        log_file: of the private one.
        settings: of the private one, as in postgresql.conf.

    Raises:
        StageError: there is none to be had.
    """
    if dsn is None:
        postgres_context = temporary(log_file=log_file, settings=settings)
        starting = asyncio.ensure_future(asyncio.to_thread(postgres_context.__enter__))
        try:
            try:
                # A thread cannot be cancelled: if we are, it ends what it began, and then it is stopped.
                postgres: EmbeddedPostgres = await asyncio.shield(starting)
            except EmbeddedPostgresError as error:
                raise StageError(f"postgres: {error}") from None
            yield RunDatabase(postgres.dsn, postgres)
        finally:
            await asyncio.wait({starting})
            if starting.exception() is None:
                await asyncio.to_thread(postgres_context.__exit__, None, None, None)
        return
    name = f"seatrial_run_{time.strftime('%Y%m%d_%H%M%S', time.gmtime())}_{os.getpid()}"
    await _administer(dsn, f"CREATE DATABASE {name}", "it must let us create a database for the run")
    try:
        yield RunDatabase(with_database(dsn, name), None)
    finally:
        await _administer(dsn, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", "the run's database is still there")


async def _administer(dsn: str, statement: str, meaning: str) -> None:
    try:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            await connection.execute(statement, timeout=60)
        finally:
            await connection.close(timeout=5)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        raise StageError(f"--database-url: {type(error).__name__}: {error}: {meaning}") from None


def with_database(dsn: str, name: str) -> str:
    """`dsn`, but for another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{quote(name)}"))


async def fingerprint(connection: asyncpg.Connection) -> Postgres:
    """Version and settings of the database, for the result."""
    rows = await connection.fetch(
        "SELECT name, current_setting(name) AS value FROM pg_settings WHERE name = ANY($1)", list(POSTGRES_SETTINGS)
    )
    version = await connection.fetchval("SHOW server_version")
    return Postgres(version=version, settings={row["name"]: row["value"] for row in rows})


ARM = signal.SIGUSR1
"""To a `loadtests.dying_server`: die at the seam."""


class ServerUnderTest:
    """The server as its own process, on one port over all restarts."""

    def __init__(self, scenario: Scenario, dsn: str, directory: Path) -> None:
        self.secret = secrets.token_urlsafe(48)
        self.port = free_port()
        self.restarts = 0
        self.ready = False
        """Whether it has said that it is ready, and has not ended since."""
        self._meant: int | None = None
        self._environment = outer_environment() | scenario.server.env | {
            "SEATRIAL_DATABASE_URL": dsn,
            "SEATRIAL_JWT_SECRET": self.secret,
            "SEATRIAL_HOST": "127.0.0.1",
            "SEATRIAL_PORT": str(self.port),
            "SEATRIAL_STORAGE": scenario.storage.strategy,
            "SEATRIAL_RETENTION_SECONDS": str(scenario.storage.retention_seconds),
            "SEATRIAL_PRUNE_INTERVAL_SECONDS": str(scenario.storage.prune_interval_seconds),
            "SEATRIAL_LOG_LEVEL": scenario.server.log_level,
        }  # fmt: skip
        self._log = directory / "server.log"
        dies = any(fault.kind == "server_kill_before_ack" for fault in scenario.faults)
        # What everybody runs, unless the scenario asks for what only a server that knows of it can do.
        self._command = python("loadtests.dying_server", "after_commit") if dies else python("seatrial", "serve")
        self.child = self._child()

    @property
    def http(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        """The base URL of its sockets."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def org(self) -> str:
        """The organisation of the run."""
        return ORG

    @property
    def credentials(self) -> Mapping[str, str]:
        """The variables with which the fleet and the users sign their tokens."""
        return {"SEATRIAL_JWT_SECRET": self.secret}

    async def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            ChildError: it ended, or was not ready in time.
        """
        self._meant = None
        await self.child.start()
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while await get(f"{self.http}/readyz") is None:
            if not self.child.running:
                raise self.child.failure(f"ended with exit code {self.child.exit_code} before it was ready")
            if time.monotonic() > deadline:
                raise self.child.failure(f"was not ready within {READY_TIMEOUT_SECONDS:g} s")
            await asyncio.sleep(0.1)
        self.ready = True

    def kill(self) -> None:
        """SIGKILL."""
        self._meant = -signal.SIGKILL
        self.child.send(signal.SIGKILL)

    def kill_at_seam(self) -> None:
        """SIGKILL as soon as a lane has committed and before it acks. Only if the scenario has a fault that needs it."""
        self._meant = -signal.SIGKILL
        self.child.send(ARM)

    def terminate(self) -> None:
        """SIGTERM: it is to drain, and to end with exit code 0."""
        self._meant = 0
        self.child.send(signal.SIGTERM)

    async def ended(self) -> bool:
        """Wait for its end.

        Returns:
            Whether it ended as it was told to; False: by itself, or with another exit code.
        """
        code = await self.child.wait()
        self.ready = False
        return code == self._meant

    async def restart(self) -> None:
        """Start it again, after it ended."""
        self.restarts += 1
        self.child = self._child()
        await self.start()

    def _child(self) -> Child:
        return Child("server", self._command, self._environment, self._log)


def outer_environment() -> dict[str, str]:
    """Our environment without SEATRIAL_*: what somebody set for another purpose must not change a run."""
    inherited: Mapping[str, str] = os.environ
    return {key: value for key, value in inherited.items() if not key.startswith("SEATRIAL_")} | {
        "PYTHONUNBUFFERED": "1"
    }
