"""The tests' Postgres gives each test an empty database, and fails in words when it cannot be had."""

from pathlib import Path

import asyncpg
import pytest

from tests.support import postgres


async def test_a_database_is_empty_and_its_own(database: str, postgres_dsn: str) -> None:
    """Two databases on one cluster share nothing, and a dropped one is gone although a connection was left open."""
    other = await postgres.create_database(postgres_dsn)
    first, second = await asyncpg.connect(database), await asyncpg.connect(other)
    await first.execute("CREATE TABLE mine ()")

    assert await second.fetchval("SELECT to_regclass('mine')") is None
    assert await second.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0

    await postgres.drop_database(postgres_dsn, other)

    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(other)
    await first.close()
    second.terminate()


def test_a_dsn_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DSN, given or from the environment, is used and not owned."""
    with postgres.cluster("postgresql://somewhere/x", "") as dsn:
        assert dsn == "postgresql://somewhere/x"
    monkeypatch.setenv(postgres.DSN_VARIABLE, "postgresql://elsewhere/y")
    with postgres.cluster("auto", "") as dsn:
        assert dsn == "postgresql://elsewhere/y"


def test_an_unknown_choice_is_refused() -> None:
    """A choice that is none is named, with those that are."""
    with pytest.raises(postgres.PostgresUnavailableError, match=r"'mysql' .* expected auto, embedded, container or"):
        postgres.cluster("mysql", "").__enter__()


def test_a_container_without_an_engine_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no Docker engine the choice `container` fails and says so; it does not skip."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")

    with pytest.raises(postgres.PostgresUnavailableError, match="needs a Docker engine, and none answers"):
        postgres.cluster("container", postgres.DEFAULT_IMAGE).__enter__()
