"""A target is asked before it is loaded, and what does not fit is told by name."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from loadtests.consent import NoConsentError
from loadtests.fingerprint import Deployed
from loadtests.stage import StageError
from loadtests.target import Target, reach, target_of
from loadtests.target_limits import check_targetable
from server.app import VERSION
from server.auth import keys
from simulator.errors import PlanError
from simulator.scenario import Scenario, ScenarioError, load
from tests.support import postgres
from tests.support.server import SECRET, RunningServer, running_server

SMALL = 'question = "?"\n[fleet]\nagents = 5\n[ui]\nsubscribers = 1\n'


def scenario(tmp_path: Path, text: str = SMALL) -> Scenario:
    """A scenario of this text."""
    path = tmp_path / "small.toml"
    path.write_text(text)
    return load(path)


def target(server: RunningServer, dsn: str, **options: Any) -> Target:
    """The server as a target, with its secret unless told otherwise."""
    values: dict[str, Any] = {"metrics_url": None, "environ": {"SEATRIAL_JWT_SECRET": SECRET}} | options
    return target_of(server.http, database_url=dsn, **values)


@pytest.fixture
async def willing(database: str) -> AsyncIterator[RunningServer]:
    """A server that accepts test load."""
    async with running_server(database, accept_test_load=True) as running:
        yield running


def counts(text: str) -> dict[str, str]:
    """What /metrics has counted, but for what goes on by itself."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    counters = {name: value for name, value in lines if name.partition("{")[0].endswith("_total")}
    return {name: value for name, value in counters.items() if "prune" not in name and "wal" not in name}


async def test_a_server_that_does_not_consent_is_sent_nothing(
    server: RunningServer, database: str, tmp_path: Path
) -> None:
    """Off by default: refused with both ways out; no counter of the server has moved, and no ticket was made."""
    told = (await server.get("/metrics")).text
    with pytest.raises(NoConsentError, match=r"SEATRIAL_ACCEPT_TEST_LOAD=true .* --i-own-this .* nothing was sent"):
        await reach(target(server, database), scenario(tmp_path), owned=False)

    assert "seatrial_frames_received_total" in counts(told)
    assert counts((await server.get("/metrics")).text) == counts(told)
    connection = await asyncpg.connect(database)
    tickets = await connection.fetchval("SELECT count(*) FROM live_ticket")
    await connection.close()
    assert tickets == 0
    assert (await server.get("/api/test-load")).json() == {"accepted": False, "storage": None}


async def test_who_owns_it_answers_for_it(server: RunningServer, database: str, tmp_path: Path) -> None:
    """With leave the same server is reached: key, database and live socket are good, and the organisation is new."""
    found = target(server, database)
    reached = await reach(found, scenario(tmp_path), owned=True)

    assert reached.deployed == Deployed(url=server.http, org=found.org, version=VERSION)
    assert found.org.startswith("seatrial-run-")
    assert found.org != target(server, database).org
    assert (server.service.counters.frames_received, server.service.registry.records) == (0, {})


async def test_a_key_file_is_good_for_agents_and_users(database: str, tmp_path: Path) -> None:
    """Tokens of both kinds are signed with the private key, and refused with another one."""
    for name, kid in (("good", "load-1"), ("other", "load-1")):
        keys.write_pair(tmp_path / name, keys.generate("ES256" if name == "good" else "EdDSA"), kid=kid)
    files: dict[str, Any] = {
        "jwt_secret": None, "jwt_keys": tmp_path / "good" / keys.JWKS_FILE,
        "jwt_signing_key": tmp_path / "good" / keys.PEM_FILE, "jwt_signing_kid": "load-1",
    }  # fmt: skip
    async with running_server(database, accept_test_load=True, **files) as server:
        for name in ("good", "other"):
            environ = {
                "SEATRIAL_JWT_SIGNING_KEY": str(tmp_path / name / keys.PEM_FILE), "SEATRIAL_JWT_SIGNING_KID": "load-1",
            }  # fmt: skip
            found = target(server, database, environ=environ)
            if name == "good":
                await reach(found, scenario(tmp_path), owned=False)
            else:
                with pytest.raises(StageError, match=r"refuses a user's token signed with SEATRIAL_JWT_SIGNING_KEY"):
                    await reach(found, scenario(tmp_path), owned=False)


async def test_what_does_not_fit_is_told(
    willing: RunningServer, database: str, postgres_dsn: str, tmp_path: Path
) -> None:
    """Another secret, another database with our tables and one without, other storage, no /metrics: each in its words."""
    small = scenario(tmp_path)
    with pytest.raises(
        StageError, match=r"refuses a user's token signed with SEATRIAL_JWT_SECRET: HTTP 401 invalid_token"
    ):
        await reach(target(willing, database, environ={"SEATRIAL_JWT_SECRET": "x" * 40}), small, owned=False)
    other = await postgres.create_database(postgres_dsn)
    try:
        with pytest.raises(StageError, match="holds no tables of Seatrial"):
            await reach(target(willing, other), small, owned=False)
        async with running_server(other):
            pass
        with pytest.raises(StageError, match=r"is not the database of http://.*every row would look lost"):
            await reach(target(willing, other), small, owned=False)
    finally:
        await postgres.drop_database(postgres_dsn, other)
    with pytest.raises(StageError, match=r"--database-url: .*expected the database of the target"):
        await reach(target(willing, "postgresql://x:y@127.0.0.1:1/none"), small, owned=False)
    stored = '[storage]\nstrategy = "partitioned"\nretention = "30s"\nprune_interval = "1s"\n'
    with pytest.raises(ScenarioError) as storage:
        await reach(target(willing, database), scenario(tmp_path, SMALL + stored), owned=False)
    for word in ("storage.strategy=plain", "storage.retention=24h", "storage.prune_interval=1m"):
        assert f"--set {word}" in str(storage.value)
    bounds = '[thresholds]\nserver_unready_s.value = "< 1"\nack_latency_ms.p99 = "< 1"\n'
    with pytest.raises(ScenarioError) as unseen:
        await reach(
            target(willing, database, metrics_url="http://127.0.0.1:1"), scenario(tmp_path, SMALL + bounds), owned=False
        )
    assert "server_unready_s.value" in str(unseen.value)
    assert "--metrics-url" in str(unseen.value)
    assert "ack_latency_ms" not in str(unseen.value)


async def test_a_version_is_found_without_metrics(willing: RunningServer, database: str, tmp_path: Path) -> None:
    """A server whose `/metrics` are not shown tells its version in the description of its API."""
    hidden = target(willing, database, metrics_url="http://127.0.0.1:1")

    assert (await reach(hidden, scenario(tmp_path), owned=False)).version == VERSION


async def test_an_origin_that_may_not_watch_is_told(database: str, tmp_path: Path) -> None:
    """A server that knows itself by another address opens no live socket for this one."""
    async with running_server(database, accept_test_load=True, public_url="https://cloud.example") as server:
        with pytest.raises(StageError, match=r"opens no live socket: HTTP 403: SEATRIAL_PUBLIC_URL"):
            await reach(target(server, database), scenario(tmp_path), owned=False)


def test_what_only_an_owner_can_do_is_refused_by_name(tmp_path: Path) -> None:
    """Every fault of the runner, settings of the server, a history, thresholds on processes; each with what can be done."""
    text = (
        'question = "?"\nduration = "60s"\n[server]\nrestart = true\nlog_level = "debug"\n'
        '[server.env]\nSEATRIAL_LANES = "4"\n[postgres]\nwork_mem = "9MB"\n[storage]\nbackfill = "1h"\n'
        '[thresholds]\nserver_rss_mb.max = "< 600"\npostgres_cpu_cores.max = "< 1"\nserver_restarts.count = "== 0"\n'
    )
    faults = ("server_kill", "server_term", "postgres_kill", "postgres_stop", "acks_withheld", "resets", "disconnect")
    text += "".join(f'[[fault]]\nat = "{1 + 7 * i}s"\nkind = "{kind}"\n' for i, kind in enumerate(faults))
    with pytest.raises(ScenarioError) as refused:
        check_targetable(scenario(tmp_path, text))
    told = [problem.key for problem in refused.value.problems]
    broken = [problem.value for problem in refused.value.problems if problem.key == "fault.kind"]

    assert told[len(broken):] == [
        "server.restart", "server.env.SEATRIAL_LANES", "postgres.work_mem", "server.log_level", "storage.backfill",
        "thresholds.server_rss_mb.max", "thresholds.postgres_cpu_cores.max", "thresholds.server_restarts.count",
    ]  # fmt: skip
    assert broken == list(faults[:-1])
    assert all(
        "instead" in p.expected or "--set" in p.expected or "set it there" in p.expected for p in refused.value.problems
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ws://cloud", r"target = ws://cloud: expected http\[s\]://host"),
        ("https://cloud/prefix", "without a path"),
        ("https://ann:secret@cloud", "without a name or password"),
        ("https://cloud:99999", "expected http"),
    ],
)
def test_a_wrong_address_is_told(url: str, words: str) -> None:
    """Only a server's base address is a target, and a password in it is not repeated."""
    with pytest.raises(PlanError, match=words) as error:
        target_of(url, database_url="", metrics_url=None, environ={"SEATRIAL_JWT_SECRET": SECRET})

    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "--signing-key with --kid, or by SEATRIAL_JWT_SECRET"),
        ({"SEATRIAL_JWT_SECRET": "short"}, "has 5 bytes: expected at least 32"),
        (
            {"SEATRIAL_JWT_SIGNING_KEY": "/nowhere.pem", "SEATRIAL_JWT_SIGNING_KID": "a"},
            "/nowhere.pem: expected No such file",
        ),
        (
            {"SEATRIAL_JWT_SIGNING_KEY": __file__, "SEATRIAL_JWT_SIGNING_KID": "a"},
            "expected an unencrypted PEM private key",
        ),
    ],
)
def test_a_key_that_cannot_sign_is_told(environ: dict[str, str], words: str) -> None:
    """Before anybody is asked anything."""
    with pytest.raises(PlanError, match=words):
        target_of("https://cloud", database_url="", metrics_url=None, environ=environ)
