"""`seatrial serve`, `token` and `db` as a user types them."""

import asyncio
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from server.db.embedded import free_port
from tests.support.command import DEADLINE_SECONDS, outcome, seatrial, start
from tests.support.server import SECRET


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that Postgres' own user can reach, if we are root: pytest's are closed to others."""
    with tempfile.TemporaryDirectory(prefix="seatrial-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def test_help_names_every_command(tmp_path: Path) -> None:
    """The overview lists the commands, and each has help of its own."""
    code, out, _ = await seatrial("--help", cwd=tmp_path)
    assert code == 0
    for command in ("serve", "simulate", "run", "verify", "token", "db"):
        assert re.search(rf"^\s+{command}\s", out, re.MULTILINE), command
        code, text, _ = await seatrial(command, "--help", cwd=tmp_path)
        assert code == 0
        assert len(text.splitlines()) > 5


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        ([], {}, ["database_url: missing", "SEATRIAL_DATABASE_URL"]),
        (["--database-url", "postgresql://x"], {}, ["jwt_secret, jwt_keys: missing", "SEATRIAL_JWT_KEYS"]),
        (
            ["--database-url", "postgresql://x"], {"SEATRIAL_JWT_KEYS": "/nowhere/jwks.json"},
            ["jwt_signing_key, jwt_signing_kid: missing: expected all of"],
        ),
        (
            ["--database-url", "postgresql://x"], {"SEATRIAL_JWT_SECRET": SECRET, "SEATRIAL_JWT_KEYS": "/nowhere/jwks.json"},
            ["jwt_secret and jwt_keys: expected only one of them"],
        ),
        (
            ["--database-url", "postgresql://x"],
            {
                "SEATRIAL_JWT_KEYS": "/nowhere/jwks.json", "SEATRIAL_JWT_SIGNING_KEY": "/nowhere/key.pem",
                "SEATRIAL_JWT_SIGNING_KID": "k",
            },
            ["jwt_keys = /nowhere/jwks.json: No such file or directory: expected a JWKS file"],
        ),
        (
            ["--database-url", "postgresql://x", "--set", "public_url=https://a.b/path"], {"SEATRIAL_JWT_SECRET": SECRET},
            ["public_url = 'https://a.b/path' (SEATRIAL_PUBLIC_URL): expected http[s]://host[:port] without a path"],
        ),
        (["--database-url", "mysql://x"], {"SEATRIAL_JWT_SECRET": SECRET}, ["database_url", "expected postgresql://"]),
        (["--database-url", "postgresql://x"], {"SEATRIAL_JWT_SECRET": "short"}, ["jwt_secret", "at least 32 bytes, found 5"]),
        (["--set", "lanse=4"], {}, ["--set lanse: unknown setting; did you mean lanes?"]),
        (["--set", "lanes"], {}, ["--set lanes: expected key=value"]),
        (
            ["--database-url", "postgresql://x", "--set", "lanes=0"], {"SEATRIAL_JWT_SECRET": SECRET},
            ["lanes = '0' (SEATRIAL_LANES)", "greater than or equal to 1"],
        ),
        (
            ["--database-url", "postgresql://x", "--retention-seconds", "5"], {"SEATRIAL_JWT_SECRET": SECRET},
            ["prune_interval_seconds = 60", "retention_seconds = 5"],
        ),
        (
            ["--database-url", "postgresql://x", "--set", "rollup_retention_seconds=3600"], {"SEATRIAL_JWT_SECRET": SECRET},
            ["rollup_retention_seconds = 3600: expected at least retention_seconds = 86400"],
        ),
    ],
)  # fmt: skip
async def test_wrong_settings_exit_2_and_are_named(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], words: list[str]
) -> None:
    """Each wrong setting is told with its name, the value and what was expected; secrets are not repeated."""
    code, _, err = await seatrial("serve", *arguments, cwd=tmp_path, **variables)

    assert code == 2
    assert all(word in err for word in words), err
    assert SECRET not in err


async def test_serving_on_its_own_postgres_ends_with_0_and_nothing_left(tmp_path: Path, reachable: Path) -> None:
    """`serve --embedded` is ready, and after SIGTERM exits 0 with its Postgres stopped."""
    port = free_port()
    process = await start(
        "serve", "--embedded", str(reachable / "pg"), "--port", str(port), cwd=tmp_path, SEATRIAL_JWT_SECRET=SECRET
    )
    async with asyncio.timeout(DEADLINE_SECONDS), httpx.AsyncClient() as client:
        while True:
            try:
                ready = await client.get(f"http://127.0.0.1:{port}/readyz")
                break
            except httpx.TransportError:
                assert process.returncode is None, await outcome(process)
                await asyncio.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    code, _, err = await outcome(process)
    gone, alive = await asyncio.to_thread(psutil.wait_procs, children, 20)

    assert ready.json()["ready"] is True
    assert code == 0, err
    assert '"drained"' in err
    assert gone
    assert alive == []


async def test_an_unreachable_database_exits_3(tmp_path: Path) -> None:
    """A server that cannot reach its database in time says so and exits 3."""
    code, _, err = await seatrial(
        "serve", "--database-url", "postgresql://x:y@127.0.0.1:1/none", "--set", "database_wait_seconds=0",
        cwd=tmp_path, SEATRIAL_JWT_SECRET=SECRET,
    )  # fmt: skip

    assert code == 3
    assert "no answer within 0 s" in err


async def test_a_database_is_brought_up_to_date_and_back(tmp_path: Path, database: str) -> None:
    """migrate, status and rollback tell what they did; migrating twice changes nothing."""
    variables = {"SEATRIAL_DATABASE_URL": database}
    first = await seatrial("db", "migrate", cwd=tmp_path, **variables)
    second = await seatrial("db", "migrate", cwd=tmp_path, **variables)
    status = await seatrial("db", "status", cwd=tmp_path, **variables)
    back = [await seatrial("db", "rollback", cwd=tmp_path, **variables) for _ in first[1].splitlines()]

    assert first[0] == second[0] == status[0] == 0, (first, status)
    assert first[1] == second[1]
    assert "container_metric: 0 rows" in status[1]
    assert [code for code, _, _ in back] == [0] * len(back), back
    assert "no migrations left" in back[-1][1]


async def test_an_unreachable_database_is_an_environment_error(tmp_path: Path) -> None:
    """`db` commands exit 3 where there is no database."""
    code, _, err = await seatrial("db", "status", cwd=tmp_path, SEATRIAL_DATABASE_URL="postgresql://x:y@127.0.0.1:1/z")

    assert code == 3
    assert err.startswith("database: ")
