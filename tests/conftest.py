"""What every test may ask for."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support import postgres
from tests.support.server import RunningServer, running_server


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the caller choose the Postgres of the tests."""
    group = parser.getgroup("seatrial")
    group.addoption("--postgres", default="auto", help="auto, embedded, container, or a DSN (default: auto)")
    group.addoption("--postgres-image", default=postgres.DEFAULT_IMAGE, help="for container (default: %(default)s)")


@pytest.fixture(scope="session")
def postgres_dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    """The cluster of this test session."""
    with postgres.cluster(request.config.getoption("--postgres"), request.config.getoption("--postgres-image")) as dsn:
        yield dsn


@pytest.fixture
async def empty_database(postgres_dsn: str) -> AsyncIterator[str]:
    """The DSN of an empty database of this test alone; nothing of it remains afterwards."""
    dsn = await postgres.create_database(postgres_dsn)
    yield dsn
    await postgres.drop_database(postgres_dsn, dsn)


@pytest.fixture(scope="session")
async def migrated_database(postgres_dsn: str) -> AsyncIterator[str]:
    """The DSN of a database that others are copied from."""
    dsn = await postgres.create_migrated(postgres_dsn)
    yield dsn
    await postgres.drop_database(postgres_dsn, dsn)


@pytest.fixture
async def database(postgres_dsn: str, migrated_database: str) -> AsyncIterator[str]:
    """The DSN of a database of this test alone, with the tables of strategy `plain` and no rows."""
    dsn = await postgres.create_database(postgres_dsn, migrated_database)
    yield dsn
    await postgres.drop_database(postgres_dsn, dsn)


@pytest.fixture
async def server(database: str) -> AsyncIterator[RunningServer]:
    """A running server with short intervals, on a database of its own."""
    async with running_server(database, offline_after_seconds=0.2, hello_timeout_seconds=5) as running:
        yield running
